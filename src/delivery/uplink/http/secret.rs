//! Secrets from files beside the configuration: tokens, keys, certificates. Messages name the file, never its contents (I10).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::fs::OFlags;
use ureq::http::HeaderValue;

/// Longest token file, bytes. JSON web tokens with many claims have about 2000.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Longest certificate file, bytes: a system's own has about 220 kB.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// The scheme in which a token is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `Bearer …`.
    Bearer,
    /// `Token …`, as in InfluxDB 2.
    Token,
    /// `Basic …`: the text is `user:password`.
    Basic,
}

/// The file of a setting: a path, or `credential:NAME`, which systemd provides in a folder of its own for the service (`LoadCredential=`).
///
/// # Errors
/// A credential outside a systemd service.
pub(super) fn located(path: &Path) -> Result<PathBuf, String> {
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
/// is read again whenever the receiver refuses its contents.
fn read(setting: &str, path: &Path, most: u64) -> Result<Vec<u8>, String> {
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

/// The bytes of a certificate or key file.
pub(super) fn read_pem(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    read(setting, path, PEM_BYTES_MAX)
}

/// The header of a token file. The error names the file, never its text.
pub(super) fn read_token(path: &Path, scheme: Scheme) -> Result<HeaderValue, String> {
    let place = path.display();
    warn_of_other_readers(path);
    let bytes = read("token_file", path, TOKEN_BYTES_MAX)?;
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(format!("token_file {place}: it must hold one line of visible ASCII, the token"));
    }
    let value = match scheme {
        Scheme::Bearer => [b"Bearer ", token].concat(),
        Scheme::Token => [b"Token ", token].concat(),
        Scheme::Basic if token.contains(&b':') => {
            format!("Basic {}", BASE64_STANDARD.encode(token)).into_bytes()
        }
        Scheme::Basic => {
            return Err(format!("token_file {place}: it must hold user:password for this format"));
        }
    };
    let mut value = HeaderValue::from_bytes(&value)
        .map_err(|_| format!("token_file {place}: it must hold one line of visible ASCII, the token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Warns once: a token that everybody on the device can read is not secret. Credentials are systemd's responsibility.
fn warn_of_other_readers(path: &Path) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if others_may_read(mode) && !SAID.swap(true, Ordering::Relaxed) {
        let place = path.display();
        tracing::warn!("token_file {place}: other users of this device can read it: chmod 600 {place}");
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

    #[test]
    fn tokens_are_one_line_of_text_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret-token\n").unwrap();
        let value = read_token(&path, Scheme::Bearer).unwrap();
        assert!(value == "Bearer s3cret-token" && !format!("{value:?}").contains("s3cret"));
        assert!(read_token(&path, Scheme::Token).unwrap() == "Token s3cret-token");
        assert!(read_token(&path, Scheme::Basic).unwrap_err().contains("user:password"));
        let long = "s3cret".repeat(2000);
        for bad in ["", "\n", "s3cret two", "s3cret\nline", "s3cret\u{7f}", "s3crét", long.as_str()] {
            std::fs::write(&path, bad).unwrap();
            let text = read_token(&path, Scheme::Bearer).unwrap_err();
            assert!(text.contains("token_file") && !text.contains("s3cr"), "{text}");
        }
        assert!(read_token(&dir.path().join("none"), Scheme::Bearer).unwrap_err().contains("must exist"));
        // RFC 7617, section 2.
        std::fs::write(&path, "Aladdin:open-sesame").unwrap();
        assert!(read_token(&path, Scheme::Basic).unwrap() == "Basic QWxhZGRpbjpvcGVuLXNlc2FtZQ==");
    }

    /// A pipe without a writer does not block the program, an endless device does not fill its memory.
    #[test]
    fn anything_but_a_regular_file_is_refused_immediately() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let status = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(status.success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/dev/null"), dir.path()] {
            for text in
                [read_token(path, Scheme::Bearer).unwrap_err(), read_pem("uplink.ca", path).unwrap_err()]
            {
                assert!(text.contains("not a regular file"), "{text}");
            }
        }
        let (file, link) = (dir.path().join("token"), dir.path().join("link"));
        std::fs::write(&file, "s3cret").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(
            read_token(&link, Scheme::Bearer).unwrap() == "Bearer s3cret",
            "a link to a token file is accepted"
        );
    }

    #[test]
    fn credentials_need_systemd_and_a_plain_name() {
        assert_eq!(located(Path::new("/etc/token")).unwrap(), Path::new("/etc/token"));
        // The test's own environment has no credentials.
        let text = located(Path::new("credential:uplink")).unwrap_err();
        assert!(text.contains("LoadCredential=uplink:PATH"), "{text}");
    }
}
