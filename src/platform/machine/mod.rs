//! Figures of the machine and of this process: processor time, memory, temperature, frequency, throttling, load, uptime.
//!
//! [`MachineReader::open`] finds out which sources this board has; [`MachineReader::read`] reads them into buffers on the stack, without a
//! heap call. **A figure that this machine does not have is absent, never 0.** [`Usage`] makes processor use from two readings, and
//! [`slope::SlopeEstimator`] the growth of memory from many.
//!
//! Sources: proc(5); Documentation/ABI/testing/sysfs-class-thermal, -devices-system-cpu, -class-hwmon of the kernel.

pub mod slope;
mod sources;
mod throttling;

use std::path::Path;
use std::time::Duration;

use crate::platform::clock::Mono;
pub use throttling::Throttling;

use sources::{ClockPolicy, Source, clock_policies, cpu_temperatures};

/// Largest number of temperature sensors and of frequency domains that are read: a big.LITTLE processor has three.
const SENSORS_MAX: usize = 8;

/// Temperatures outside this range are those of a sensor that is switched off, thousandths of a degree Celsius.
const TEMPERATURES: std::ops::RangeInclusive<i64> = -60_000..=200_000;

/// Processor time of the machine, in ticks of all cores together since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTicks {
    /// Neither idle nor waiting for a disk.
    pub busy: u64,
    /// Everything.
    pub total: u64,
}

/// The figures of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// When they were read.
    pub at: Mono,
    /// Processor time of all threads of this process since its start, user and system.
    pub process_cpu: Option<Duration>,
    /// Processor time of the machine.
    pub machine_cpu: Option<CpuTicks>,
    /// Resident memory of this process, bytes.
    pub resident_bytes: Option<u64>,
    /// The hottest sensor of the processor, thousandths of a degree Celsius.
    pub temperature_millicelsius: Option<i64>,
    /// Present clock frequency of the fastest cores, hertz.
    pub frequency_hertz: Option<u64>,
    /// Highest clock frequency that these cores have, hertz.
    pub frequency_max_hertz: Option<u64>,
    /// What a Raspberry Pi's firmware says about its power supply and heat.
    pub throttling: Option<Throttling>,
    /// Load averages of 1, 5 and 15 minutes, hundredths.
    pub load_hundredths: Option<[u32; 3]>,
    /// Time since the machine started.
    pub uptime: Option<Duration>,
}

/// Processor use between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of all cores together, thousandths: 1000 when every core is busy. What `psutil.cpu_percent()` gives in per cent (S11).
    pub machine_permille: Option<u32>,
    /// Of this process, thousandths of one core: 2000 when it keeps two cores busy. As `top` and `CPUQuota=` of systemd count.
    pub process_permille: Option<u32>,
}

impl Usage {
    /// The use from `earlier` to `later`. Absent where a figure is, or no time has passed.
    pub fn between(earlier: &Reading, later: &Reading) -> Self {
        let permille = |part: u128, whole: u128| {
            let permille = (part * 1000 + whole / 2).checked_div(whole)?;
            Some(u32::try_from(permille).unwrap_or(u32::MAX))
        };
        let machine = || {
            let (earlier, later) = (earlier.machine_cpu?, later.machine_cpu?);
            let total = later.total.saturating_sub(earlier.total);
            // Time that was counted as idle can become busy later, and the other way round.
            let busy = later.busy.saturating_sub(earlier.busy).min(total);
            permille(busy.into(), total.into())
        };
        let process = || {
            let used = later.process_cpu?.saturating_sub(earlier.process_cpu?);
            permille(used.as_nanos(), later.at.since(earlier.at).as_nanos())
        };
        Usage { machine_permille: machine(), process_permille: process() }
    }
}

/// Reads the figures. Keeps its files open; paths are allocated once.
#[derive(Debug)]
pub struct MachineReader {
    process_stat: Source,
    process_memory: Source,
    machine_stat: Source,
    load: Source,
    uptime: Source,
    temperatures: heapless::Vec<Source, SENSORS_MAX>,
    clock: Option<ClockPolicy>,
    throttling: throttling::Reader,
    nanos_per_tick: u64,
    page_bytes: u64,
}

impl MachineReader {
    /// Looks for the sources below `root`: `/`, or a folder with a copy of /proc and /sys for a test.
    pub fn open(root: &Path) -> Self {
        let file = |path: &str| Source::new(root.join(path));
        MachineReader {
            process_stat: file("proc/self/stat"),
            process_memory: file("proc/self/statm"),
            machine_stat: file("proc/stat"),
            load: file("proc/loadavg"),
            uptime: file("proc/uptime"),
            temperatures: cpu_temperatures(root),
            clock: clock_policies(root),
            throttling: throttling::Reader::open(root),
            nanos_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }

    /// All figures, as of `now`. Makes no heap call.
    pub fn read(&mut self, now: Mono) -> Reading {
        let ticks = self.process_stat.read(process_ticks);
        let hottest = self.temperatures.iter_mut().filter_map(|sensor| sensor.read(number));
        Reading {
            at: now,
            process_cpu: ticks.map(|ticks| Duration::from_nanos(ticks.saturating_mul(self.nanos_per_tick))),
            machine_cpu: self.machine_stat.read(machine_ticks),
            resident_bytes: self.process_memory.read(resident_pages).map(|pages| pages * self.page_bytes),
            temperature_millicelsius: hottest.filter(|degrees| TEMPERATURES.contains(degrees)).max(),
            frequency_hertz: self.clock.as_mut().and_then(ClockPolicy::now_hertz),
            frequency_max_hertz: self.clock.as_ref().and_then(|clock| clock.max_hertz),
            throttling: self.throttling.read(),
            load_hundredths: self.load.read(load_averages),
            uptime: self.uptime.read(|text| {
                let hundredths = hundredths(text.split_ascii_whitespace().next()?)?;
                Some(Duration::from_millis(hundredths.checked_mul(10)?))
            }),
        }
    }
}

/// The whole number that a file holds.
fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// utime + stime of /proc/PID/stat: fields 14 and 15. The name of the program, field 2, may hold spaces and brackets.
fn process_ticks(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

/// Resident pages of /proc/PID/statm: field 2.
fn resident_pages(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are within user and nice.
fn machine_ticks(text: &str) -> Option<CpuTicks> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let (mut total, mut rest) = (0_u64, 0_u64);
    let mut fields = 0;
    for (index, field) in line.split_ascii_whitespace().take(8).enumerate() {
        let ticks: u64 = field.parse().ok()?;
        total = total.checked_add(ticks)?;
        if matches!(index, 3 | 4) {
            rest += ticks;
        }
        fields += 1;
    }
    (fields >= 4).then_some(CpuTicks { busy: total - rest, total })
}

fn load_averages(text: &str) -> Option<[u32; 3]> {
    let mut loads = [0; 3];
    let mut fields = text.split_ascii_whitespace();
    for load in &mut loads {
        *load = u32::try_from(hundredths(fields.next()?)?).ok()?;
    }
    Some(loads)
}

/// `12.34` as 1234.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    if fraction.len() != 2 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(fraction.parse().ok()?)
}

#[cfg(test)]
mod tests;
