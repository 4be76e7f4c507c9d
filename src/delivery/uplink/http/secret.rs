//! Secrets of the uplink, from files ([`crate::platform::secret`]): the header that carries a token; certificates and keys.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ureq::http::HeaderValue;

use crate::platform::secret;

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
    secret::read(setting, path, PEM_BYTES_MAX)
}

/// The header of a token file. The error names the file, never its text.
pub(super) fn read_token(path: &Path, scheme: Scheme) -> Result<HeaderValue, String> {
    let place = path.display();
    let token = secret::read_token("token_file", path)?;
    let value = match scheme {
        Scheme::Bearer => [b"Bearer ", &token[..]].concat(),
        Scheme::Token => [b"Token ", &token[..]].concat(),
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
}
