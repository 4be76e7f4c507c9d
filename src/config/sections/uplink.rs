//! Delivery: where events go, and how.

use std::path::PathBuf;
use std::time::Duration;

use super::{path, seconds};
use crate::config::scopes::Uplink;
use crate::config::values::Values;
use crate::delivery::spool::Batching;
use crate::delivery::uplink::endpoints::ENDPOINTS_MAX;
use crate::delivery::uplink::format::Format;
use crate::delivery::uplink::http::tls::{KeyPin, Roots, TlsParams};
use crate::delivery::uplink::http::{Deadlines, HttpParams, InfluxTarget, redacted};
use crate::delivery::uplink::{Target, UplinkParams};

/// Formats that receivers over HTTP accept.
pub(in crate::config) const FORMATS: [(&str, Format); 6] = [
    ("cloudevents", Format::CloudEvents),
    ("influx1", Format::Influx1),
    ("influx2", Format::Influx2),
    ("postcard", Format::Packed),
    ("postcard2", Format::Packed2),
    ("postcard3", Format::Packed3),
];

pub(in crate::config) fn uplink(values: &mut Values) -> Uplink {
    let target = target(values);
    let http = http(values);
    let interval_s = values.int("uplink.interval_s");
    let float_seconds = |key| Duration::from_secs_f64(values.float(key));
    Uplink {
        http,
        queue_events: values.int("uplink.queue_events") as usize,
        batching: Batching {
            events_max: values.int("uplink.batch_events_max") as usize,
            age_max: float_seconds("uplink.batch_age_max_s"),
            interval: (interval_s > 0).then(|| seconds(interval_s)),
        },
        delivery: UplinkParams {
            backoff_first: float_seconds("uplink.backoff_first_s"),
            // An uplink with an interval is not woken more often for a receiver that does not answer.
            backoff_cap: float_seconds("uplink.backoff_cap_s").max(seconds(interval_s)),
            retry_after_cap: seconds(values.int("uplink.retry_after_cap_s")),
            drain: seconds(values.int("uplink.drain_s")),
            seed: 0,
            // A file or a reader of stdout is local: batches do not wait for clock synchronisation.
            clock_wait: if target.is_http() {
                seconds(values.int("uplink.clock_wait_s"))
            } else {
                Duration::ZERO
            },
        },
        target,
    }
}

fn target(values: &mut Values) -> Target {
    let target =
        Target { first: values.text("uplink.target").to_owned(), others: values.texts("uplink.fallbacks") };
    if !(target.is_http() || target.first == "stdout" || target.first.starts_with("file:")) {
        let shown = redacted(&target.first);
        values.mistake_without_value(
            "uplink.target",
            format_args!("'{shown}' must be stdout, file:PATH, http://HOST/PATH or https://HOST/PATH"),
        );
    }
    let over_http = |url: &String| Target::from(url.as_str()).is_http();
    if !target.others.iter().all(over_http) || !(target.is_http() || target.others.is_empty()) {
        values.mistake_without_value(
            "uplink.fallbacks",
            format_args!("these and uplink.target must be http://HOST/PATH or https://HOST/PATH"),
        );
    }
    if target.others.len() >= ENDPOINTS_MAX {
        let most = ENDPOINTS_MAX - 1;
        values.mistake_without_value("uplink.fallbacks", format_args!("give at most {most}"));
    }
    target
}

/// Settings for HTTP only. Its URL comes with the target.
fn http(values: &mut Values) -> HttpParams {
    let format = values.choice("uplink.format", &FORMATS);
    for (wanted, key) in [
        (Format::Influx1, "uplink.influx_database"),
        (Format::Influx2, "uplink.influx_org"),
        (Format::Influx2, "uplink.influx_bucket"),
    ] {
        if format == wanted && values.text(key).is_empty() {
            values.mistake(key, format_args!("must be set for this uplink.format"));
        }
    }
    let pin = values.text_or_none("uplink.pin");
    if pin.as_ref().is_some_and(|pin| KeyPin::parse(pin).is_none()) {
        values.mistake(
            "uplink.pin",
            format_args!("must be sha256//… in base64, the hash of the receiver's public key"),
        );
    }
    let text = |key| values.text(key).to_owned();
    HttpParams {
        url: String::new(),
        format,
        influx: InfluxTarget {
            database: text("uplink.influx_database"),
            retention_policy: text("uplink.influx_retention_policy"),
            org: text("uplink.influx_org"),
            bucket: text("uplink.influx_bucket"),
        },
        gzip: values.bool("uplink.gzip"),
        token_file: path(values, "uplink.token_file"),
        tls: TlsParams {
            roots: match values.text("uplink.ca") {
                "builtin" => Roots::Builtin,
                "system" => Roots::System,
                path => Roots::File(PathBuf::from(path)),
            },
            client_cert: path(values, "uplink.client_cert_file"),
            client_key: path(values, "uplink.client_key_file"),
            pin: pin.and_then(|pin| KeyPin::parse(&pin)),
        },
        proxy: values.text_or_none("uplink.proxy"),
        deadlines: Deadlines {
            connect: seconds(values.int("uplink.connect_timeout_s")),
            response: seconds(values.int("uplink.response_timeout_s")),
            whole: seconds(values.int("uplink.whole_timeout_s")),
            ..Deadlines::default()
        },
    }
}
