//! The head of a request: where it ends, and what it asks for. Pure; any bytes may come (I8).

use crate::base::limits::STATUS_HEADERS_MAX;
use crate::status::openmetrics::Format;
use crate::status::page::Request;

/// What the head of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) request: Request<'a>,
    /// HEAD: the page is not sent, only its size.
    pub(super) without_body: bool,
    /// The client may send another request on this connection.
    pub(super) keep_alive: bool,
    pub(super) host: Option<&'a [u8]>,
    pub(super) authorization: Option<&'a [u8]>,
}

/// Why a request is refused. The connection is closed afterwards, since where the next request begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400, with the reason.
    Bad(&'static str),
    /// 405.
    Method,
    /// 431.
    TooLarge,
    /// 505.
    Version,
}

/// Where the head that begins `bytes` ends: behind its empty line. `searched` bytes were searched before, without success.
pub(super) fn end(bytes: &[u8], searched: usize) -> Option<usize> {
    // The three bytes before may be the beginning of the end.
    let from = searched.saturating_sub(3).min(bytes.len());
    (from..bytes.len()).find_map(|at| {
        let rest = &bytes[at..];
        [&b"\n\n"[..], b"\n\r\n"].iter().find(|end| rest.starts_with(end)).map(|end| at + end.len())
    })
}

/// Whether a request can begin with these bytes: with a letter, not as TLS or a binary protocol does.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(u8::is_ascii_alphabetic)
}

/// Reads a complete head.
pub(super) fn parse(head: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; STATUS_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Refusal::Bad("not a request")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Bad("not a request")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::Bad("not a request"));
    };
    if !matches!(method, "GET" | "HEAD" | "POST") {
        return Err(Refusal::Method);
    }
    let path = path_of(target).ok_or(Refusal::Bad("the path must begin with /"))?;
    // The first of several; one of those that decide who may read must not be there twice.
    let all = |name: &'static str| {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        parsed.headers.iter().filter(named).map(|header| header.value)
    };
    let only = |name| match (all(name).next(), all(name).nth(1)) {
        (first, None) => Ok(first),
        _ => Err(Refusal::Bad("a header is there twice")),
    };
    let host = only("host")?;
    if version == 1 && host.is_none() {
        return Err(Refusal::Bad("HTTP/1.1 needs a Host header"));
    }
    let has_body = all("content-length").any(|length| length.trim_ascii() != b"0");
    if has_body || all("transfer-encoding").next().is_some() {
        return Err(Refusal::Bad("a request here has no body"));
    }
    let closes = all("connection").any(|value| {
        value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
    });
    let openmetrics = all("accept").any(|accept| Format::negotiated(accept) == Format::OpenMetrics);
    let format = if openmetrics { Format::OpenMetrics } else { Format::Text };
    Ok(Head {
        request: Request { path, format, is_post: method == "POST" },
        without_body: method == "HEAD",
        keep_alive: version == 1 && !closes,
        host,
        authorization: only("authorization")?,
    })
}

/// The path of a request's target, without the query; `http://host/path` is allowed too (RFC 9112, section 3.2.2).
fn path_of(target: &str) -> Option<&str> {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Head<'_>, Refusal> {
        parse(text.as_bytes())
    }

    #[test]
    fn requests_of_scrapers_and_people_are_read() {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nHost: 127.0.0.1:9464\r\nUser-Agent: Prometheus/2.42.0\r\n\
                    Accept: application/openmetrics-text;version=1.0.0;q=0.75,*/*;q=0.1\r\n\
                    Authorization: Bearer x\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n";
        let expected = Head {
            request: Request { path: "/metrics", format: Format::OpenMetrics, is_post: false },
            without_body: false,
            keep_alive: true,
            host: Some(b"127.0.0.1:9464"),
            authorization: Some(b"Bearer x"),
        };
        assert_eq!(head(text), Ok(expected));
        let old = head("HEAD http://h/healthz HTTP/1.0\n\n").unwrap();
        assert_eq!((old.request.path, old.without_body, old.keep_alive), ("/healthz", true, false));
        let last =
            head("GET / HTTP/1.1\r\nhost: h\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert!(!last.keep_alive);
        assert_eq!(head("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().request.path, "/");
    }

    #[test]
    fn everything_else_is_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(STATUS_HEADERS_MAX + 1));
        let with = |lines: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        for (text, refusal) in [
            ("PUT / HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::Method),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
                Refusal::Bad("a request here has no body"),
            ),
            ("get / HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::Method),
            ("GET / HTTP/2.0\r\n\r\n", Refusal::Version),
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Bad("HTTP/1.1 needs a Host header")),
            ("GET metrics HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::Bad("the path must begin with /")),
            ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::Bad("the path must begin with /")),
            ("GET /\r\n\r\n", Refusal::Bad("not a request")),
            ("\u{16}\u{3}\u{1}\n\n", Refusal::Bad("not a request")),
            (&with("Content-Length: 5\r\n"), Refusal::Bad("a request here has no body")),
            (&with("Transfer-Encoding: chunked\r\n"), Refusal::Bad("a request here has no body")),
            (&with("Host: other\r\n"), Refusal::Bad("a header is there twice")),
            (&with("Authorization: a\r\nAuthorization: b\r\n"), Refusal::Bad("a header is there twice")),
            (&many, Refusal::TooLarge),
        ] {
            assert_eq!(head(text), Err(refusal), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_end_is_found_however_the_bytes_arrive(
            text in "[ax\r\n]{0,40}", splits in proptest::collection::vec(0usize..40, 0..6)
        ) {
            let bytes = text.as_bytes();
            let whole = end(bytes, 0);
            let expected = [text.find("\n\n").map(|at| at + 2), text.find("\n\r\n").map(|at| at + 3)];
            prop_assert_eq!(whole, expected.into_iter().flatten().min());
            let mut splits: Vec<_> = splits.into_iter().map(|at| at.min(bytes.len())).collect();
            splits.push(bytes.len());
            splits.sort_unstable();
            let mut searched = 0;
            for split in splits {
                if let Some(found) = end(&bytes[..split], searched) {
                    prop_assert_eq!(Some(found), whole);
                    return Ok(());
                }
                searched = split;
            }
            prop_assert_eq!(whole, None);
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _no_panic = parse(&bytes);
        }
    }
}
