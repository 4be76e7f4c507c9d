//! Files of /proc and /sys: read again and again without a heap call, and found once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{SENSORS_MAX, number};

/// Most bytes that are read of a file: a line of /proc, or a number.
const TEXT_BYTES_MAX: usize = 1024;

/// Highest number of a thermal zone, a hwmon device or a CPU that is looked at.
const NUMBERS_MAX: usize = 64;

/// A small text file that the kernel writes anew for every reader.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: Option<File>,
}

impl Source {
    /// The file is opened with the first reading, and again after one that failed.
    pub(super) fn new(path: PathBuf) -> Self {
        Source { path, file: None }
    }

    /// What `parse` makes of the text; of its beginning, if it is long.
    pub(super) fn read<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut buffer = [0; TEXT_BYTES_MAX];
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path).ok()?,
        };
        // An error is a sensor that was removed, or is switched off for now.
        let count = file.read_at(&mut buffer, 0).ok()?;
        self.file = Some(file);
        let text = match std::str::from_utf8(&buffer[..count]) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&buffer[..error.valid_up_to()]).unwrap_or_default(),
        };
        parse(text)
    }
}

/// Whether a thermal zone of this type is a sensor of the processor: `cpu-thermal` (Raspberry Pi, Jetson Orin and most device trees),
/// `CPU-therm` and `MCPU-therm` (older Jetsons), `cpu0-0-top-thermal` (Qualcomm), `x86_pkg_temp`, `bcm2835_thermal` (older Raspberry Pi),
/// `soc-thermal`, `package-thermal`, `bigcore0-thermal`, `littlecore-thermal` (Rockchip).
fn is_of_cpu(zone_type: &str) -> bool {
    let kind = zone_type.trim().to_ascii_lowercase();
    kind.contains("cpu")
        || matches!(kind.as_str(), "x86_pkg_temp" | "bcm2835_thermal")
        || ["soc", "package", "bigcore", "littlecore"].iter().any(|begin| kind.starts_with(begin))
}

/// Drivers of hwmon that measure the processor, for machines whose thermal zones do not: AMD's have none.
const HWMON_OF_CPU: [&str; 4] = ["coretemp", "k10temp", "zenpower", "cpu_thermal"];

/// The text of a file, for discovery.
fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The temperature sensors of the processor: its thermal zones, or else the first sensor of its hwmon devices.
pub(super) fn cpu_temperatures(root: &Path) -> heapless::Vec<Source, SENSORS_MAX> {
    let zones = (0..NUMBERS_MAX).map(|zone| root.join(format!("sys/class/thermal/thermal_zone{zone}")));
    let zones = zones.filter(|zone| text(&zone.join("type")).is_some_and(|kind| is_of_cpu(&kind)));
    let found: heapless::Vec<_, SENSORS_MAX> =
        zones.map(|zone| Source::new(zone.join("temp"))).take(SENSORS_MAX).collect();
    if !found.is_empty() {
        return found;
    }
    let devices = hwmon_devices(root, |name| HWMON_OF_CPU.contains(&name));
    devices.map(|device| Source::new(device.join("temp1_input"))).take(SENSORS_MAX).collect()
}

/// The hwmon devices with a name that is `wanted`.
pub(super) fn hwmon_devices(root: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let devices = (0..NUMBERS_MAX).map(|device| root.join(format!("sys/class/hwmon/hwmon{device}")));
    devices.filter(move |device| text(&device.join("name")).is_some_and(|name| wanted(name.trim())))
}

/// Cores that share a clock.
#[derive(Debug)]
pub(super) struct ClockPolicy {
    now: Source,
    pub(super) max_hertz: Option<u64>,
}

impl ClockPolicy {
    /// The present frequency.
    pub(super) fn now_hertz(&mut self) -> Option<u64> {
        self.now.read(kilohertz)
    }
}

/// A number of kilohertz in hertz.
fn kilohertz(text: &str) -> Option<u64> {
    u64::try_from(number(text)?).ok()?.checked_mul(1000)
}

/// The frequency domain with the highest maximum: the fast cores, which the network runs on.
pub(super) fn clock_policies(root: &Path) -> Option<ClockPolicy> {
    let policies =
        (0..NUMBERS_MAX).map(|cpu| root.join(format!("sys/devices/system/cpu/cpufreq/policy{cpu}")));
    let policies = policies.filter(|policy| policy.join("scaling_cur_freq").exists());
    let max = |policy: &Path| text(&policy.join("cpuinfo_max_freq")).and_then(|text| kilohertz(&text));
    let policies = policies.map(|policy| ClockPolicy {
        max_hertz: max(&policy),
        now: Source::new(policy.join("scaling_cur_freq")),
    });
    // Of equal ones the first.
    policies.reduce(|best, policy| if policy.max_hertz > best.max_hertz { policy } else { best })
}
