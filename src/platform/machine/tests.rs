//! Tests against copies of /proc and /sys as boards have them, and against this machine.
use super::*;
use crate::platform::clock::{Clock, SystemClock};
use std::fs;

/// A folder with these files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn read(folder: &tempfile::TempDir) -> Reading {
    MachineReader::open(folder.path()).read(Mono::ZERO)
}

#[test]
fn a_raspberry_pi_is_read() {
    let pi = root(&[
        ("proc/self/stat", "7 (fly) trap) S 1 7 7 0 -1 4194560 9 0 0 0 250 150 3 4 20 0 9 0 99 1 2 3\n"),
        ("proc/self/statm", "60000 1234 900 300 0 9000 0\n"),
        ("proc/stat", "cpu  100 20 30 800 50 5 5 10 7 0\ncpu0 1 2 3\nintr 99\n"),
        ("proc/loadavg", "1.25 0.80 12.34 2/300 4242\n"),
        ("proc/uptime", "12345.67 40000.00\n"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "71582\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1500000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "2400000\n"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
        ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
        ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
    ]);
    let ticks = rustix::param::clock_ticks_per_second();
    let expected = Reading {
        at: Mono::ZERO,
        process_cpu: Some(Duration::from_nanos(400 * (1_000_000_000 / ticks))),
        machine_cpu: Some(CpuTicks { busy: 170, total: 1020 }),
        resident_bytes: Some(1234 * rustix::param::page_size() as u64),
        temperature_millicelsius: Some(71_582),
        frequency_hertz: Some(1_500_000_000),
        frequency_max_hertz: Some(2_400_000_000),
        throttling: Some(Throttling {
            under_voltage: Some(true),
            frequency_capped: Some(false),
            throttled: Some(true),
            soft_temperature_limit: Some(false),
            under_voltage_occurred: Some(true),
            frequency_capped_occurred: Some(false),
            throttled_occurred: Some(true),
            soft_temperature_limit_occurred: Some(false),
        }),
        load_hundredths: Some([125, 80, 1234]),
        uptime: Some(Duration::from_millis(12_345_670)),
    };
    assert_eq!(read(&pi), expected);
}

#[test]
fn what_a_machine_does_not_have_is_absent() {
    let empty = root(&[]);
    assert_eq!(read(&empty), Reading::default());
    let garbage = root(&[
        ("proc/self/stat", "7 (x"),
        ("proc/self/statm", "12"),
        ("proc/stat", "cpu  1 2 x 4"),
        ("proc/loadavg", "1.2 0.8 0.3"),
        ("proc/uptime", "-1.00"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
        ("sys/class/thermal/thermal_zone0/temp", "hot"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "-5"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "xyz"),
    ]);
    assert_eq!(read(&garbage), Reading::default());
}

#[test]
fn the_hottest_sensor_of_the_processor_counts() {
    // A Jetson: a zone that is switched off, and hotter zones that are not the processor's.
    let jetson = root(&[
        ("sys/class/thermal/thermal_zone0/type", "CPU-therm\n"),
        ("sys/class/thermal/thermal_zone0/temp", "45500\n"),
        ("sys/class/thermal/thermal_zone1/type", "GPU-therm\n"),
        ("sys/class/thermal/thermal_zone1/temp", "60000\n"),
        ("sys/class/thermal/thermal_zone2/type", "MCPU-therm\n"),
        ("sys/class/thermal/thermal_zone2/temp", "46000\n"),
        ("sys/class/thermal/thermal_zone5/type", "BCPU-therm\n"),
        ("sys/class/thermal/thermal_zone5/temp", "-256000\n"),
        ("sys/class/thermal/thermal_zone6/type", "PMIC-Die\n"),
        ("sys/class/thermal/thermal_zone6/temp", "100000\n"),
    ]);
    assert_eq!(read(&jetson).temperature_millicelsius, Some(46_000));
    let rockchip = root(&[
        ("sys/class/thermal/thermal_zone0/type", "soc-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "50000\n"),
        ("sys/class/thermal/thermal_zone1/type", "bigcore0-thermal\n"),
        ("sys/class/thermal/thermal_zone1/temp", "52000\n"),
    ]);
    assert_eq!(read(&rockchip).temperature_millicelsius, Some(52_000));
    let amd = root(&[
        ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
        ("sys/class/thermal/thermal_zone0/temp", "90000\n"),
        ("sys/class/hwmon/hwmon0/name", "nvme\n"),
        ("sys/class/hwmon/hwmon0/temp1_input", "80000\n"),
        ("sys/class/hwmon/hwmon2/name", "k10temp\n"),
        ("sys/class/hwmon/hwmon2/temp1_input", "61000\n"),
    ]);
    assert_eq!(read(&amd).temperature_millicelsius, Some(61_000));
}

#[test]
fn the_frequency_is_that_of_the_fast_cores() {
    let big_little = root(&[
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1800000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1800000\n"),
        ("sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "408000\n"),
        ("sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq", "2400000\n"),
    ]);
    let reading = read(&big_little);
    assert_eq!(
        (reading.frequency_hertz, reading.frequency_max_hertz),
        (Some(408_000_000), Some(2_400_000_000))
    );
}

#[test]
fn other_names_of_the_firmware_and_the_alarm_alone_are_found() {
    let pi5 =
        root(&[("sys/bus/platform/drivers/raspberrypi-firmware/soc@1:firmware/get_throttled", "0x80008\n")]);
    let flags = read(&pi5).throttling.unwrap();
    let set: Vec<_> =
        flags.flags().into_iter().filter(|(_, set)| *set == Some(true)).map(|(name, _)| name).collect();
    assert_eq!(set, ["soft_temperature_limit", "soft_temperature_limit_occurred"]);
    let mainline = root(&[
        ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
        ("sys/class/hwmon/hwmon3/name", "rpi_volt\n"),
        ("sys/class/hwmon/hwmon3/in0_lcrit_alarm", "1\n"),
    ]);
    let expected = Throttling { under_voltage: Some(true), ..Throttling::default() };
    assert_eq!(read(&mainline).throttling, Some(expected));
}

#[test]
fn a_source_that_goes_and_comes_back_is_read_again() {
    let folder = root(&[("proc/loadavg", "1.00 1.00 1.00 1/1 1\n")]);
    let mut reader = MachineReader::open(folder.path());
    assert_eq!(reader.read(Mono::ZERO).load_hundredths, Some([100; 3]));
    fs::write(folder.path().join("proc/loadavg"), "2.00 1.00 1.00 1/1 1\n").unwrap();
    assert_eq!(reader.read(Mono::ZERO).load_hundredths, Some([200, 100, 100]), "the file stays open");
    assert_eq!(reader.read(Mono::ZERO).uptime, None);
    fs::write(folder.path().join("proc/uptime"), "1.00 1.00\n").unwrap();
    assert_eq!(
        reader.read(Mono::ZERO).uptime,
        Some(Duration::from_secs(1)),
        "a driver that was loaded later"
    );
}

#[test]
fn usage_is_that_between_two_readings() {
    let at = |seconds: u64, process_ms: u64, busy: u64, total: u64| Reading {
        at: Mono::from_nanos(seconds * 1_000_000_000),
        process_cpu: Some(Duration::from_millis(process_ms)),
        machine_cpu: Some(CpuTicks { busy, total }),
        ..Reading::default()
    };
    let between = |earlier: &Reading, later: &Reading| {
        let usage = Usage::between(earlier, later);
        (usage.machine_permille, usage.process_permille)
    };
    let first = at(10, 1000, 500, 1000);
    assert_eq!(between(&first, &at(12, 5000, 600, 1800)), (Some(125), Some(2000)), "two cores of eight");
    assert_eq!(between(&first, &first), (None, None), "no time");
    assert_eq!(between(&first, &at(20, 1000, 490, 1200)), (Some(0), Some(0)), "counters that went back");
    assert_eq!(between(&first, &at(20, 1000, 900, 1200)), (Some(1000), Some(0)));
    assert_eq!(between(&Reading::default(), &first), (None, None));
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "QEMU's user emulation shows no processor time in /proc/self/stat"
)]
fn this_machine_is_read() {
    let mut reader = MachineReader::open(Path::new("/"));
    let first = reader.read(SystemClock.mono());
    assert!(first.resident_bytes.unwrap() > 1 << 20);
    assert!(first.load_hundredths.is_some());
    assert!(first.uptime.unwrap() > Duration::ZERO);
    let mut sum = 0_u64;
    let (mut last, mut usage) = (first, Usage::default());
    // Until the kernel has counted some ticks of work.
    while last.process_cpu.unwrap() < first.process_cpu.unwrap() + Duration::from_millis(100) {
        (0..1_000_000_u64).for_each(|number| sum = sum.wrapping_mul(31).wrapping_add(number));
        last = reader.read(SystemClock.mono());
        usage = Usage::between(&first, &last);
    }
    assert_ne!(std::hint::black_box(sum), 0);
    assert!(usage.process_permille.unwrap() > 0, "{usage:?}");
    assert!((1..=1000).contains(&usage.machine_permille.unwrap()), "{usage:?}");
}
