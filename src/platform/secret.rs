//! Secrets from files beside the configuration: tokens, keys, passwords. Messages name the file, never its contents (I10).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

/// The file of a setting: a path, or `credential:NAME`, which systemd provides in a folder of its own for the service (`LoadCredential=`).
///
/// # Errors
/// A credential outside a systemd service.
pub fn located(path: &Path) -> Result<PathBuf, String> {
    let Some(name) = path.to_str().and_then(|text| text.strip_prefix("credential:")) else {
        return Ok(path.to_owned());
    };
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        format!("credential:{name}: there are no credentials: start flytrap as a systemd service with LoadCredential={name}:PATH")
    })?;
    if name.is_empty() || name.contains('/') || name == ".." {
        return Err(format!("credential:{name}: give the name of a LoadCredential= line"));
    }
    Ok(Path::new(&folder).join(name))
}

/// The text of a regular file of at most `most` bytes. A pipe, socket or device is refused: it may block the reader for ever, and the file
/// is read again whenever its contents are refused. `setting` names the file in errors.
///
/// # Errors
/// One line: it is missing, unreadable, too long, or not a regular file.
pub fn read(setting: &str, path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let place = path.display();
    let mut bytes = Vec::new();
    let path = located(path).map_err(|why| format!("{setting}: {why}"))?;
    let failed = |error| format!("read {setting} {place}: {error}: it must exist and be readable");
    // Without NONBLOCK, opening a pipe without a writer blocks.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{setting} {place}: not a regular file: write the text into one"));
    }
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(format!("{setting} {place}: longer than {most} bytes"));
    }
    Ok(bytes)
}

/// Warns if other users of this device can read a secret's file, once per `said`. Credentials are systemd's responsibility.
pub fn warn_of_other_readers(setting: &str, path: &Path, said: &AtomicBool) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if others_may_read(mode) && !said.swap(true, Ordering::Relaxed) {
        let place = path.display();
        tracing::warn!("{setting} {place}: other users of this device can read it: chmod 600 {place}");
    }
}

fn others_may_read(mode: u32) -> bool {
    mode & 0o077 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_read_a_secret() {
        assert!([0o100_600, 0o100_400].iter().all(|mode| !others_may_read(*mode)));
        assert!([0o100_644, 0o100_640, 0o100_604, 0o100_620].iter().all(|mode| others_may_read(*mode)));
    }

    #[test]
    fn credentials_need_systemd_and_a_plain_name() {
        assert_eq!(located(Path::new("/etc/token")).unwrap(), Path::new("/etc/token"));
        // The test's own environment has no credentials.
        let text = located(Path::new("credential:uplink")).unwrap_err();
        assert!(text.contains("LoadCredential=uplink:PATH"), "{text}");
    }
}
