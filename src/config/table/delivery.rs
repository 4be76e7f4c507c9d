//! `[events]`, `[uplink]`, `[spool]`.

use super::{Scope, Secret, Section, choice, names, number, switch, text, texts, whole};
use crate::base::limits::{BATCH_EVENTS_MAX, EVENT_QUEUE_MAX};
use crate::config::sections::uplink::FORMATS;

pub(super) const EVENTS: Section = Section::new("events", Scope::Events, &[
    whole("stats_interval_s", 60, 1, 86_400).unit("seconds").live().help(
        "Time between statistics events, which report all counters. Raise it to send less over a metered link.",
    ),
]);

pub(super) const UPLINK: Section = Section::new("uplink", Scope::Uplink, &[
    text("target", "stdout").secret(Secret::InUrl).help(
        "Where to send events. The option --uplink overrides it.\n   \
        stdout             one JSON object per line\n   \
        file:PATH          the same, appended to a file\n   \
        http://HOST/PATH   batches over HTTP, see format\n   \
        https://HOST/PATH  the same over TLS",
    ),
    texts("fallbacks", &[]).secret(Secret::InUrl).help(
        "More http:// or https:// addresses to use while target fails, at most 7. All of them should lead to the same store.",
    ),
    choice("format", "cloudevents", const { &names(&FORMATS) }).help(
        "Format of batches over HTTP. \"cloudevents\": CloudEvents 1.0 as JSON. \"influx1\" (InfluxDB 1, VictoriaMetrics) and \
        \"influx2\" (InfluxDB 2 and 3): line protocol; target is then http://HOST:PORT/. \"postcard\": binary, a tenth of the \
        bytes; `flytrap decode` converts it to CloudEvents. \"postcard2\" and \"postcard3\": the same with the counters, then \
        the kinds of statistics, that were added since, for receivers that run this version of flytrap or a newer one.",
    ),
    text("influx_database", "").help(
        "Database to write to; needed for \"influx1\".",
    ),
    text("influx_retention_policy", "").help(
        "Retention policy to write to, for \"influx1\". \"\" = the database's default.",
    ),
    text("influx_org", "").help(
        "Organisation to write to; needed for \"influx2\".",
    ),
    text("influx_bucket", "").help(
        "Bucket to write to; needed for \"influx2\".",
    ),
    switch("gzip", false).help(
        "Compress batches with gzip. The receiver must support Content-Encoding: gzip.",
    ),
    text("token_file", "").help(
        "File with the access token, or \"credential:NAME\" for systemd's LoadCredential=NAME:... It is sent as a bearer token, \
        for \"influx2\" as an InfluxDB token; for \"influx1\" the file holds user:password. \"\" = no token. It is read again \
        when the receiver rejects it.",
    ),
    text("ca", "builtin").help(
        "Certificate authorities that https receivers are checked against: \"builtin\" = Mozilla's list at build time, \
        \"system\" = those of the operating system, or a PEM file.",
    ),
    text("pin", "").help(
        "Also require this public key of the receiver, as sha256//BASE64 (as curl --pinnedpubkey). \"\" = any key with a valid \
        certificate.",
    ),
    text("client_cert_file", "").help(
        "Client certificate of this device, a PEM file or \"credential:NAME\". \"\" = none. Set client_key_file too.",
    ),
    text("client_key_file", "").help(
        "Private key of the client certificate, a PEM file or \"credential:NAME\".",
    ),
    text("proxy", "").secret(Secret::InUrl).help(
        "HTTP proxy that supports CONNECT, \"http://HOST:PORT\". \"\" = none. Environment variables such as https_proxy are \
        ignored.",
    ),
    whole("interval_s", 0, 0, 86_400).unit("seconds").special(0, "send each batch when it is due").live().help(
        "Time between connections over a link that sleeps in between, such as a mobile modem. Alerts are sent at once. While \
        the receiver cannot be reached, attempts are no more frequent than this.",
    ),
    whole("batch_events_max", 100, 1, BATCH_EVENTS_MAX as i64).unit("events").at_most("uplink.queue_events").help(
        "A batch is sent when it holds this many events.",
    ),
    number("batch_age_max_s", 10.0, 0.1, 3600.0).unit("seconds").live().help(
        "A batch is sent at the latest when its oldest event has waited this long.",
    ),
    whole("queue_events", 1024, 1, EVENT_QUEUE_MAX as i64).unit("events").help(
        "Size of the queue between counting and the spool. When it is full, the oldest event is dropped and counted.",
    ),
    number("backoff_first_s", 1.0, 0.1, 60.0).unit("seconds").live().help(
        "Delay before a failed batch is sent again. It doubles after each further failure, up to backoff_cap_s.",
    ),
    number("backoff_cap_s", 300.0, 0.1, 86_400.0).unit("seconds").at_least("uplink.backoff_first_s").live().help(
        "Longest delay between attempts to send.",
    ),
    whole("retry_after_cap_s", 3600, 1, 86_400).unit("seconds").live().help(
        "Longest delay that a receiver can request (Retry-After).",
    ),
    whole("clock_wait_s", 60, 0, 3600).unit("seconds").live().help(
        "How long the first batch waits until the system clock is synchronised (NTP), over HTTP only. Events sent before that \
        carry no exact time, only the earliest and latest possible one.",
    ),
    whole("drain_s", 10, 0, 3600).unit("seconds").live().help(
        "At exit, how long to go on sending the last events.",
    ),
    whole("connect_timeout_s", 15, 1, 600).unit("seconds").at_most("uplink.whole_timeout_s").help(
        "HTTP: longest time to connect, TLS included.",
    ),
    whole("response_timeout_s", 30, 1, 600).unit("seconds").at_most("uplink.whole_timeout_s").help(
        "HTTP: longest wait for the response once the request is sent.",
    ),
    whole("whole_timeout_s", 90, 1, 600).unit("seconds").help(
        "HTTP: longest time for a whole request. Raise it for slow links.",
    ),
]);

pub(super) const SPOOL: Section = Section::new("spool", Scope::Spool, &[
    text("folder", "").help(
        "Folder in which events wait until the receiver has confirmed them; they survive power cuts and restarts. \"\" = in \
        memory only. Each flytrap process needs its own folder. Under systemd set StateDirectory=flytrap and use \
        \"/var/lib/flytrap/spool\".",
    ),
    whole("memory_kb", 512, 64, 1024).unit("KiB").help(
        "Memory for events that are not on disk yet, or for all of them while there is no disk.",
    ),
    whole("quota_mb", 256, 16, 65_536).unit("MiB").help(
        "Most disk space for waiting events; at least 32 times memory_kb. Above it statistics and tracks are dropped first, \
        then crossings, then alerts, the oldest of each first; every drop is counted and reported.",
    ),
    whole("events_max", 4_000_000, 1000, 1_000_000_000).unit("events").live().help(
        "Most events on disk; dropped as for quota_mb.",
    ),
    whole("age_max_days", 90, 0, 3650).unit("days").special(0, "no limit").live().help(
        "Events older than this are dropped.",
    ),
    whole("headroom_mb", 64, 0, 1_048_576).unit("MiB").live().help(
        "Disk space that is left free for other programs, whatever quota_mb allows.",
    ),
    whole("commit_interval_s", 5, 1, 300).unit("seconds").live().help(
        "Events are on disk after this time: a power cut loses at most that much. A longer interval writes less to flash \
        memory.",
    ),
    whole("checkpoint_interval_s", 300, 1, 3600).unit("seconds").at_least("spool.commit_interval_s").live().help(
        "The same for statistics, which the next statistics replace.",
    ),
    whole("write_budget_mb_per_day", 200, 0, 1_048_576).unit("MiB").special(0, "no limit").live().help(
        "Report an event when more than this is written to disk within 24 hours, because flash memory wears out. One event per \
        second writes about 70 MiB per day. Raise commit_interval_s to write less.",
    ),
]);
