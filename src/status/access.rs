//! Who may read: programs on this device, and whoever has the token (I10); and who may ask for a change: whoever may write to the socket.
//!
//! Beyond loopback, every request needs the token. On loopback without one, a request must name the server by address or as `localhost`:
//! otherwise a web page could make the browser of somebody on this device read the figures for it, by a name that it lets point here
//! (DNS rebinding).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::STATUS_HEAD_BYTES_MAX;
use crate::platform::secret;

/// The setting with the address, for messages.
const LISTEN: &str = "status.listen";
/// The setting with the token's file, for messages.
const TOKEN_FILE: &str = "status.token_file";

/// The address that `text` names, if it may be listened on: loopback, or any other with a token.
///
/// # Errors
/// `Kind::Config`: not an address with a port, or beyond loopback without a token.
pub fn check_address(text: &str, has_token: bool) -> Result<SocketAddr> {
    let wrong = |why: &str| Err(Error::fatal(Kind::Config, format!("{LISTEN} '{text}': {why}")));
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let Ok(address) = local.as_deref().unwrap_or(text).parse::<SocketAddr>() else {
        return wrong("write an IP address and a port, such as 127.0.0.1:9464 or [::1]:9464");
    };
    if address.port() == 0 {
        return wrong("port 0 would be another one at every start: name a port from 1 to 65535");
    }
    if !is_loopback(address.ip()) && !has_token {
        return wrong(
            "everybody on that network could read it: set status.token_file, or listen on 127.0.0.1 only",
        );
    }
    Ok(address)
}

/// Whether only this device can reach an address.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Decides about each request.
#[derive(Debug)]
pub(super) enum Access {
    /// No token: a request must name the server by an address or as `localhost`.
    Local,
    /// Every request must carry the token.
    Token(TokenFile),
    /// The status socket, whose permissions decide.
    Socket,
}

/// The decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The client may read.
    Allowed,
    /// 401.
    NoToken,
    /// 421: it asks for a server of another name.
    OtherHost,
    /// 405: it may read only.
    ReadOnly,
}

impl Access {
    /// # Errors
    /// `Kind::Config`: the token cannot be read.
    pub(super) fn open(token_file: Option<&Path>) -> Result<Self> {
        token_file.map_or(Ok(Access::Local), |path| TokenFile::open(path).map(Access::Token))
    }

    /// Decides by the `Host` and `Authorization` headers of a request, and whether it asks for a change.
    pub(super) fn decide(
        &mut self,
        host: Option<&[u8]>,
        authorization: Option<&[u8]>,
        is_post: bool,
    ) -> Decision {
        match self {
            Access::Socket => Decision::Allowed,
            // A web page could send it, too.
            Access::Local | Access::Token(_) if is_post => Decision::ReadOnly,
            Access::Local if host.is_none_or(is_address_or_localhost) => Decision::Allowed,
            Access::Local => Decision::OtherHost,
            Access::Token(file) => {
                let has_token = file.is_in(authorization.unwrap_or_default());
                if has_token { Decision::Allowed } else { Decision::NoToken }
            }
        }
    }
}

/// Whether a `Host` header is an IP address or `localhost`, with or without a port.
fn is_address_or_localhost(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    bracketed.unwrap_or(name).parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// A token in a file. Memory holds its hash only. The file is read again when it changes, so that a token can be replaced while the
/// program runs; while it cannot be read, no token is right.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    read_at: Option<Stamp>,
    hash: Option<[u8; 32]>,
}

/// Changes whenever a file is replaced or written.
type Stamp = (u64, u64, Option<SystemTime>);

impl TokenFile {
    /// # Errors
    /// `Kind::Config`: the token cannot be read.
    fn open(path: &Path) -> Result<Self> {
        let config = |why: String| Error::fatal(Kind::Config, why);
        let located = secret::located(path).map_err(|why| config(format!("{TOKEN_FILE}: {why}")))?;
        let read_at = stamp(&located);
        let hash = read_hash(path).map_err(config)?;
        Ok(TokenFile { path: located, read_at, hash: Some(hash) })
    }

    /// Whether `authorization` is `Bearer` and the token. Takes the same time for every wrong token.
    fn is_in(&mut self, authorization: &[u8]) -> bool {
        let now = stamp(&self.path);
        if now != self.read_at {
            self.read_at = now;
            self.hash = match read_hash(&self.path) {
                Ok(hash) => Some(hash),
                Err(why) => {
                    tracing::error!("{why}: until then every request is refused");
                    None
                }
            };
        }
        let token = match authorization.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => return false,
        };
        // Of two hashes, so that the time says nothing about the length or the bytes of the token.
        let given: [u8; 32] = Sha256::digest(token).into();
        self.hash.is_some_and(|own| {
            let different = own.iter().zip(given).fold(0, |sum, (own, given)| sum | (own ^ given));
            std::hint::black_box(different) == 0
        })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}

fn read_hash(path: &Path) -> Result<[u8; 32], String> {
    let token = secret::read_token(TOKEN_FILE, path)?;
    if token.len() > STATUS_HEAD_BYTES_MAX / 2 {
        let place = path.display();
        return Err(format!("{TOKEN_FILE} {place}: longer than {} bytes", STATUS_HEAD_BYTES_MAX / 2));
    }
    Ok(Sha256::digest(&token).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_does_without_a_token() {
        for text in ["127.0.0.1:9464", "127.8.0.1:1", "[::1]:9464", "localhost:9464", "[::ffff:127.0.0.1]:80"]
        {
            check_address(text, false).unwrap();
        }
        for text in
            ["0.0.0.0:9464", "[::]:9464", "192.168.1.9:9464", "[fe80::1]:9464", "[::ffff:10.0.0.1]:80"]
        {
            check_address(text, true).unwrap();
            let error = check_address(text, false).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            let line = error.to_string();
            assert!(line.contains("status.listen") && line.contains("status.token_file"), "{line}");
        }
        for text in [
            "",
            "9464",
            ":9464",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "localhost",
            "example.org:80",
        ] {
            let line = check_address(text, true).unwrap_err().to_string();
            assert!(line.starts_with(&format!("status.listen '{text}': ")), "{line}");
        }
    }

    #[test]
    fn without_a_token_the_server_goes_by_its_address_only() {
        let mut access = Access::open(None).unwrap();
        for host in ["127.0.0.1", "127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]", "[::1]:9464"] {
            assert_eq!(access.decide(Some(host.as_bytes()), None, false), Decision::Allowed, "{host}");
        }
        assert_eq!(access.decide(None, None, false), Decision::Allowed, "HTTP/1.0");
        for host in
            ["example.org", "example.org:9464", "127.0.0.1.example.org", "localhost.example", "", "\u{e9}"]
        {
            assert_eq!(access.decide(Some(host.as_bytes()), None, false), Decision::OtherHost, "{host}");
        }
        assert_eq!(access.decide(Some(b"\xff"), None, false), Decision::OtherHost);
    }

    #[test]
    fn a_token_is_checked_and_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert_eq!(Access::open(Some(&path)).unwrap_err().kind(), Kind::Config);
        std::fs::write(&path, "s3cret\n").unwrap();
        let mut access = Access::open(Some(&path)).unwrap();
        assert!(!format!("{access:?}").contains("s3cret"));
        let mut decide = |text: &str| access.decide(Some(b"example.org"), Some(text.as_bytes()), false);
        for text in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret"] {
            assert_eq!(decide(text), Decision::Allowed, "{text}");
        }
        for text in ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crett", "Basic s3cret"] {
            assert_eq!(decide(text), Decision::NoToken, "{text}");
        }
        let next = folder.path().join("next");
        std::fs::write(&next, "another-one").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(decide("Bearer s3cret"), Decision::NoToken);
        assert_eq!(decide("Bearer another-one"), Decision::Allowed);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(decide("Bearer another-one"), Decision::NoToken, "a token that was taken away");
        std::fs::write(&path, "another-one").unwrap();
        assert_eq!(decide("Bearer another-one"), Decision::Allowed);
        assert_eq!(access.decide(None, None, false), Decision::NoToken);
        std::fs::write(&path, "x".repeat(STATUS_HEAD_BYTES_MAX / 2 + 1)).unwrap();
        Access::open(Some(&path)).unwrap_err();
    }
}
