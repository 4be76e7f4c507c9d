//! The address that a batch is sent to: checked, and without secrets in messages.

use ureq::http::Uri;

use crate::base::mask::masked;
use crate::delivery::uplink::format::Format;

/// Where InfluxDB stores the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InfluxTarget {
    /// Version 1: the database.
    pub database: String,
    /// Version 1: the retention policy; empty: the database's own.
    pub retention_policy: String,
    /// Version 2: the organisation.
    pub org: String,
    /// Version 2: the bucket.
    pub bucket: String,
}

/// The address that a batch is posted to.
///
/// # Errors
/// What is wrong with it, and the remedy. Shows no part of it.
pub(super) fn address(url: &str, format: Format, influx: &InfluxTarget) -> Result<Uri, String> {
    let uri = checked(url)?;
    let (path, query) = match format {
        Format::CloudEvents | Format::Packed | Format::Packed2 | Format::Packed3 => return Ok(uri),
        Format::Influx1 => ("/write", vec![("db", &influx.database), ("rp", &influx.retention_policy)]),
        Format::Influx2 => ("/api/v2/write", vec![("org", &influx.org), ("bucket", &influx.bucket)]),
    };
    if uri.query().is_some() {
        return Err(
            "remove the part from '?' on: database, org and bucket have their own settings".to_owned()
        );
    }
    let bare = uri.path().trim_end_matches('/');
    let path =
        if bare.is_empty() || !bare.ends_with("/write") { format!("{bare}{path}") } else { bare.to_owned() };
    let given = query.into_iter().filter(|(_, value)| !value.is_empty());
    let given: String = given.map(|(name, value)| format!("{name}={}&", percent(value))).collect();
    let (scheme, authority) =
        (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
    let text = format!("{scheme}://{authority}{path}?{given}precision=ns");
    text.parse().map_err(|_| "not a URL: write it like https://host:port/".to_owned())
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The URL if it is usable, else what is wrong and the remedy. Shows no part of the URL.
pub(super) fn checked(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "not a URL: write it like https://host:port/path")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("use http:// or https://");
    }
    let authority = uri.authority().ok_or("it has no host")?;
    if authority.as_str().contains('@') {
        return Err("a URL must not contain a user or password: put the token into a file, see token_file");
    }
    if authority.host().is_empty() {
        return Err("it has no host");
    }
    Ok(uri)
}

pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A URL, possibly an invalid one, without possible secrets: everything up to the last `@`, the query, and what [`masked`] finds in the
/// path.
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("", url),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (place, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?…"),
        None => (rest, ""),
    };
    let colon = if scheme.is_empty() { "" } else { "://" };
    let head = format!("{scheme}{colon}");
    let place = masked(&format!("{head}{place}")).into_owned();
    let place = place.strip_prefix(&head).unwrap_or(&place);
    format!("{head}{user}{place}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_an_address_are_never_shown() {
        for (url, shown) in [
            ("https://h/x?token=s", "https://h/x?…"),
            ("https://h/token/s/x", "https://h/token/***/x"),
            ("https://joe:s@h/x#s", "https://…@h/x?…"),
            ("https://h:8443/password=s", "https://h:8443/password=***"),
            ("joe:s@h", "…@h"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn influx_has_a_path_and_a_query_of_its_own() {
        let influx = InfluxTarget {
            database: "my db".into(),
            retention_policy: String::new(),
            org: "a&b".into(),
            bucket: "traffic/7".into(),
        };
        let at = |url: &str, format| address(url, format, &influx).map(|uri| uri.to_string());
        for (url, format, expected) in [
            ("http://h:8086", Format::Influx1, "http://h:8086/write?db=my%20db&precision=ns"),
            ("http://h:8086/influx/", Format::Influx1, "http://h:8086/influx/write?db=my%20db&precision=ns"),
            (
                "http://h/insert/0/influx/write",
                Format::Influx1,
                "http://h/insert/0/influx/write?db=my%20db&precision=ns",
            ),
            (
                "https://h",
                Format::Influx2,
                "https://h/api/v2/write?org=a%26b&bucket=traffic%2F7&precision=ns",
            ),
            ("https://h/events?x=1", Format::Packed, "https://h/events?x=1"),
        ] {
            assert_eq!(at(url, format).unwrap(), expected);
        }
        assert!(at("http://h/write?db=x", Format::Influx1).unwrap_err().contains("their own settings"));
    }
}
