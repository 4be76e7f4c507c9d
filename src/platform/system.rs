//! What the kernel says about this machine and this process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::error::{Error, Kind, Result};

/// The highest peak before a [`reset_peak`], bytes.
static PEAK_BEFORE: AtomicU64 = AtomicU64::new(0);

/// Resident memory of this process, bytes; 0 if /proc is not readable. Makes no heap call.
pub fn resident_bytes() -> u64 {
    use std::io::Read;
    let mut buffer = [0u8; 128];
    let Ok(mut file) = std::fs::File::open("/proc/self/statm") else { return 0 };
    let Ok(count) = file.read(&mut buffer) else { return 0 };
    // "size resident shared ...", in pages.
    let text = std::str::from_utf8(&buffer[..count]).unwrap_or("");
    let pages: u64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Peak resident memory since the start of the process or the last [`reset_peak`], bytes; the current resident memory if /proc has no peak.
pub fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes.map_or_else(resident_bytes, |count| count << 10)
}

/// Peak resident memory since the start of the process, bytes.
pub fn peak_since_start_bytes() -> u64 {
    peak_resident_bytes().max(PEAK_BEFORE.load(Relaxed))
}

/// Resets [`peak_resident_bytes`]. Kernels without page monitoring refuse it; the peak then includes the start of the process.
pub fn reset_peak() {
    PEAK_BEFORE.fetch_max(peak_resident_bytes(), Relaxed);
    // "5" resets the peak: proc_pid_clear_refs(5).
    let _refused = std::fs::write("/proc/self/clear_refs", "5");
}

/// From here on large allocations return to the system as soon as they are freed: loading a model takes several times the memory that
/// remains in use, and the C library would keep the rest. Call it before starting threads.
pub fn map_large_pieces() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a call of the C library that takes no pointer")]
    // SAFETY: no other thread is there yet; both are documented parameters.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
}

/// Gives free memory back to the system, once the model is loaded.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a call of the C library that takes no pointer")]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0);
        // From here on the C library keeps freed large blocks: code that allocates them for each frame would pay for fresh pages every
        // time.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}

/// Memory of the machine, bytes.
#[allow(clippy::useless_conversion, reason = "32 bits on 32-bit boards")]
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

/// Identity of this boot of the kernel, a UUID.
///
/// # Errors
/// `Kind::System` where /proc is not mounted: without it two boots could give the same event ids.
pub fn boot_id() -> Result<String> {
    const PLACE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PLACE).map_err(|error| {
        Error::fatal(Kind::System, format!("{PLACE} cannot be read: mount /proc")).caused_by(error)
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_boot_id_are_read() {
        let before = resident_bytes();
        assert!(before > 1 << 20, "{before}");
        let block = vec![1u8; 64 << 20];
        assert!(resident_bytes() > before + (60 << 20), "64 MB more are resident");
        drop(block);
        assert!(peak_resident_bytes() >= before + (60 << 20), "the peak stays");
        assert!(memory_bytes() > 64 << 20);
        let id = boot_id().unwrap();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
    }
}
