//! `[status]`, `[kpi]`, `[alerts]`, `[[alert]]`.

use super::{Scope, Section, choice, names, number, switch, text, whole};
use crate::config::sections::status::CONDITIONS;

pub(super) const STATUS: Section = Section::new("status", Scope::Status, &[
    text("listen", "").help(
        "Address of the status pages: /metrics for Prometheus, /healthz, /readyz, /status.json. \"\" = none. \"127.0.0.1:9464\" = for \
        programs on this device only; any other address needs token_file.",
    ),
    text("socket", "auto").help(
        "Unix socket for flytrap top, kpi and reload on this device: a path, or \"auto\" = status.sock in the first of these folders that \
        can be used: that of systemd's RuntimeDirectory=flytrap, that of the user's session, /run/flytrap. \"\" = none. Its user and \
        group may use it.",
    ),
    text("token_file", "").help(
        "File with a token, or \"credential:NAME\" for systemd's LoadCredential=NAME:... Every request must carry it as \
        Authorization: Bearer TOKEN. \"\" = no token, on 127.0.0.1 only. It must not be readable by others.",
    ),
    whole("frame_age_max_s", 60, 1, 86_400).unit("seconds").help(
        "A camera without a good frame for longer is not healthy: /healthz and the alert \"no frame\". Raise it for sources with \
        long pauses.",
    ).live(),
    whole("delivery_age_max_s", 3600, 1, 31_536_000).unit("seconds").help(
        "A device without a delivery for longer is not healthy: /healthz and the alert \"no delivery\". Raise it above \
        uplink.interval_s.",
    ).live(),
    text("resource_log", "").help(
        "CSV file with a row of figures at a time (CPU, memory, frame rate and more); \"\" = none. When it is full it becomes FILE.1, \
        and a new one begins.",
    ),
    whole("resource_log_interval_s", 1, 1, 86_400).unit("seconds").help(
        "Time between two rows of the resource log.",
    ),
    whole("resource_log_kb", 4096, 64, 1_048_576).unit("KiB").help(
        "Largest size of both files of the resource log together.",
    ),
]);

pub(super) const KPI: Section = Section::new("kpi", Scope::Kpi, &[
    number("frame_rate_min", 6.0, 0.1, 240.0).unit("frames a second").help(
        "Targets of `flytrap kpi`, which says whether the device reaches them. The lowest frame rate of a camera; of a camera that \
        is configured for less (sampling.fps), that rate.",
    ).live(),
    number("latency_max_ms", 200.0, 1.0, 60_000.0).unit("milliseconds").help(
        "Longest time from capture to events, for 95 % of the frames on which the network ran.",
    ).live(),
    number("memory_max_mb", 128.0, 1.0, 1_048_576.0).unit("MiB").help(
        "Most resident memory since the start.",
    ).live(),
    number("cpu_max_percent", 70.0, 1.0, 100.0).unit("%").help(
        "Highest use of the CPU by all programs, of all cores, on average since the start.",
    ).live(),
    number("map50_min_percent", 80.0, 0.0, 100.0).unit("%").help(
        "Lowest accuracy of the model: its mAP50, as `flytrap eval --record` has measured it.",
    ).live(),
]);

pub(super) const ALERTS: Section = Section::new("alerts", Scope::Alerts, &[
    switch("defaults", true).help(
        "Watch what every device should watch: low frame rate, no frame, no delivery, memory, memory growth, spool nearly full, write \
        budget, clock not synchronised, temperature, throttled, under-voltage. Your own [[alert]] of the same name replaces one.",
    ).live(),
]);

pub(super) const ALERT: Section = Section::array("alert", Scope::Alerts, &[
    text("name", "").help(
        "Name of the rule in alerts. 1 to 32 bytes; each rule needs its own.",
    ).live(),
    text("metric", "").help(
        "The metric to watch, such as machine.temperature_millicelsius, camera.rate_permille, stats.events_dropped or \
        storage.disk_bytes: a group and a name of /status.json. A metric of cameras is watched for each camera. Values are in the \
        unit of the name.",
    ).live(),
    choice("when", "above", const { &names(&CONDITIONS) }).help(
        "The rule holds while the value is above the limit, below it, or does not exist.",
    ).live(),
    whole("limit", 0, 0, i64::MAX).help(
        "The limit, in the unit of the metric's name.",
    ).live(),
    whole("clear", -1, -1, i64::MAX).special(-1, "the limit itself").help(
        "The alert is over when the value has come back to this, for hold_s. A distance from the limit keeps it from flapping.",
    ).live(),
    whole("window_s", 60, 0, 86_400).unit("seconds").special(0, "the present value").help(
        "The value is the mean of this time; of a counter, its increase.",
    ).live(),
    whole("hold_s", 60, 0, 86_400).unit("seconds").help(
        "How long the rule must hold before the alert begins, and how long it must be over before the alert ends.",
    ).live(),
])
.none()
.help(
    "Rules for alerts, at most 32, each with its own [[alert]]. Begin and end of an alert are events, wake the link and show on the LED. \
    There are none here besides those of [alerts]. Example:\n   \
    [[alert]]\n   \
    name = \"hot\"\n   \
    metric = \"machine.temperature_millicelsius\"\n   \
    limit = 75000",
);
