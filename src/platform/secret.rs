//! Secrets from files beside the configuration: tokens, keys, certificates, passwords. Messages name the file, never its contents (I10).

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::platform::process;

/// Longest token file, bytes. JSON web tokens with many claims have about 2000.
pub const TOKEN_BYTES_MAX: u64 = 8 << 10;

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

/// The bytes of the regular file that `setting` names, at most `most` of them. A pipe, socket or device is refused: it may block the
/// reader for ever, and a secret is read again whenever it changes.
///
/// # Errors
/// One line that names the setting and the file: it is missing, unreadable, no regular file or too long.
pub fn read(setting: &str, path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let place = path.display();
    let mut bytes = Vec::new();
    let path = located(path).map_err(|why| format!("{setting}: {why}"))?;
    let failed = |error| format!("read {setting} {place}: {error}: it must exist and be readable");
    let file = match process::open_regular(&path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(format!("{setting} {place}: not a regular file: write the text into one"));
        }
        opened => opened.map_err(failed)?,
    };
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(format!("{setting} {place}: longer than {most} bytes"));
    }
    Ok(bytes)
}

/// The token of the file that `setting` names: one line of visible ASCII, without the line break. Warns once if other users of the device
/// can read it.
///
/// # Errors
/// As [`read`], or the text is no token. The message never shows it.
pub fn read_token(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    warn_of_other_readers(setting, path, &SAID);
    let bytes = read(setting, path, TOKEN_BYTES_MAX)?;
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        let place = path.display();
        return Err(format!("{setting} {place}: it must hold one line of visible ASCII, the token"));
    }
    Ok(token.to_vec())
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
    fn only_the_owner_may_read_a_token() {
        assert!([0o100_600, 0o100_400].iter().all(|mode| !others_may_read(*mode)));
        assert!([0o100_644, 0o100_640, 0o100_604, 0o100_620].iter().all(|mode| others_may_read(*mode)));
    }

    /// A pipe without a writer does not block the program, an endless device does not fill its memory.
    #[test]
    fn anything_but_a_regular_file_is_refused_immediately() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let status = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(status.success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/dev/null"), dir.path()] {
            for text in [read_token("token_file", path).unwrap_err(), read("uplink.ca", path, 9).unwrap_err()]
            {
                assert!(text.contains("not a regular file"), "{text}");
            }
        }
        let (file, link) = (dir.path().join("token"), dir.path().join("link"));
        std::fs::write(&file, "s3cret").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_token("token_file", &link).unwrap(), b"s3cret", "a link to a token file is accepted");
    }

    #[test]
    fn credentials_need_systemd_and_a_plain_name() {
        assert_eq!(located(Path::new("/etc/token")).unwrap(), Path::new("/etc/token"));
        // The test's own environment has no credentials.
        let text = located(Path::new("credential:uplink")).unwrap_err();
        assert!(text.contains("LoadCredential=uplink:PATH"), "{text}");
    }
}
