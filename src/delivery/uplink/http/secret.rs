//! The uplink's tokens, keys and certificates, each from a file. Messages name the file, never its contents (I10).

use std::path::Path;
use std::sync::atomic::AtomicBool;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ureq::http::HeaderValue;

use crate::platform::secret::{read, warn_of_other_readers};

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

/// The bytes of a certificate or key file.
pub(super) fn read_pem(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    read(setting, path, PEM_BYTES_MAX)
}

/// The header of a token file. The error names the file, never its text.
pub(super) fn read_token(path: &Path, scheme: Scheme) -> Result<HeaderValue, String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let place = path.display();
    warn_of_other_readers("token_file", path, &SAID);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
