//! The status pages, the resource log, targets for the KPI table, and rules for alerts.

use std::time::Duration;

use super::{path, seconds};
use crate::base::limits::{ALERTS_MAX, NAME_BYTES_MAX};
use crate::config::scopes::Status;
use crate::config::values::{Values, nearest};
use crate::metrics::alert::{Rule, Watched, When};
use crate::metrics::kpi::Targets;
use crate::status::socket::Place;

/// What a rule compares.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum Condition {
    Above,
    Below,
    Absent,
}

/// By the words that users write.
pub(in crate::config) const CONDITIONS: [(&str, Condition); 3] =
    [("above", Condition::Above), ("below", Condition::Below), ("absent", Condition::Absent)];

pub(in crate::config) fn status(values: &mut Values) -> Status {
    let socket = Place::parse(values.text("status.socket"));
    let socket = socket.unwrap_or_else(|why| {
        values.mistake("status.socket", why);
        Place::None
    });
    Status {
        listen: values.text_or_none("status.listen"),
        socket,
        token_file: path(values, "status.token_file"),
        frame_age_max: seconds(values.int("status.frame_age_max_s")),
        delivery_age_max: seconds(values.int("status.delivery_age_max_s")),
        resource_log: path(values, "status.resource_log"),
        resource_log_interval: seconds(values.int("status.resource_log_interval_s")),
        resource_log_bytes: values.int("status.resource_log_kb").unsigned_abs() << 10,
    }
}

/// The targets of the KPI table.
pub(in crate::config) fn kpi(values: &Values) -> Targets {
    Targets {
        frame_rate_min: values.float("kpi.frame_rate_min"),
        latency_max_ms: values.float("kpi.latency_max_ms"),
        memory_max_mb: values.float("kpi.memory_max_mb"),
        cpu_max_percent: values.float("kpi.cpu_max_percent"),
        map50_min_percent: values.float("kpi.map50_min_percent"),
    }
}

/// The user's rules, and those of the defaults that none of them replaces.
pub(in crate::config) fn alerts(values: &mut Values) -> Vec<Rule> {
    let count = values.count("alert");
    if count > ALERTS_MAX {
        values.mistake(
            &format!("alert[{ALERTS_MAX}].name"),
            format_args!("there are at most {ALERTS_MAX} rules"),
        );
    }
    let mut rules: Vec<Rule> = Vec::new();
    for index in 0..count.min(ALERTS_MAX) {
        if let Some(rule) = rule(values, &|field: &str| format!("alert[{index}].{field}")) {
            if rules.iter().any(|other| other.name == rule.name) {
                values.mistake(&format!("alert[{index}].name"), "must be a name of its own");
            }
            rules.push(rule);
        }
    }
    if values.bool("alerts.defaults") {
        let shipped = shipped(values);
        let is_new = |rule: &Rule| !rules.iter().any(|own| own.name == rule.name);
        let new: Vec<Rule> = shipped.into_iter().filter(is_new).collect();
        rules.extend(new);
    }
    rules
}

fn rule(values: &mut Values, key: &dyn Fn(&str) -> String) -> Option<Rule> {
    let name = values.text(&key("name")).to_owned();
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        values.mistake(&key("name"), format_args!("must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    let metric = values.text(&key("metric")).to_owned();
    let Some(metric) = Watched::find(&metric) else {
        let hint = nearest(&metric, Watched::names());
        values.mistake(&key("metric"), format_args!("is not a metric{hint}"));
        return None;
    };
    let number = |field: &str| u64::try_from(values.int(&key(field))).ok();
    let limit = number("limit").unwrap_or(0);
    let clear = number("clear").unwrap_or(limit);
    let when = match values.choice(&key("when"), &CONDITIONS) {
        Condition::Above => When::Above { limit, clear },
        Condition::Below => When::Below { limit, clear },
        Condition::Absent => When::Absent,
    };
    let is_wrong = match when {
        When::Above { limit, clear } => clear > limit,
        When::Below { limit, clear } => clear < limit,
        When::Absent => false,
    };
    if is_wrong {
        values.mistake(&key("clear"), "must be on the good side of the limit");
    }
    Some(Rule {
        name,
        metric,
        when,
        window: seconds(values.int(&key("window_s"))),
        hold: seconds(values.int(&key("hold_s"))),
    })
}

/// Settings that take effect at the next start and are the limits of rules that come with the program, with the rule's name.
pub const LIMITS: [(&str, &str); 2] =
    [("memory.budget_mb", "memory"), ("spool.quota_mb", "spool nearly full")];

/// The rules that come with the program, with limits from the other settings.
fn shipped(values: &Values) -> Vec<Rule> {
    let mib = |key: &str| values.int(key).unsigned_abs() << 20;
    let above = |limit: u64, clear: u64| When::Above { limit, clear };
    let age = |key: &str| values.int(key).unsigned_abs() * 1000;
    let minute = Duration::from_secs(60);
    let rule = |name: &str, metric: &str, when: When, window: Duration, hold: Duration| {
        // A test finds every one of these metrics.
        Watched::find(metric).map(|metric| Rule { name: name.to_owned(), metric, when, window, hold })
    };
    let (frame, delivery) = (age("status.frame_age_max_s"), age("status.delivery_age_max_s"));
    let (budget, quota) = (mib("memory.budget_mb"), mib("spool.quota_mb"));
    let mut rules = vec![
        // The original: 5 min mean below 5 of 6 frames a second (S18).
        rule(
            "low frame rate",
            "camera.rate_permille",
            When::Below { limit: 833, clear: 900 },
            5 * minute,
            Duration::ZERO,
        ),
        rule("no frame", "camera.last_frame_age_ms", above(frame, frame), Duration::ZERO, Duration::ZERO),
        rule(
            "no delivery",
            "stats.last_delivery_age_ms",
            above(delivery, delivery),
            Duration::ZERO,
            Duration::ZERO,
        ),
        rule("memory", "machine.rss_bytes", above(budget, budget / 10 * 9), minute, minute),
        rule("memory growth", "machine.rss_growth_per_hour_bytes", above(4 << 20, 1 << 20), minute, minute),
        rule(
            "spool nearly full",
            "storage.disk_bytes",
            above(quota / 10 * 9, quota / 10 * 8),
            minute,
            Duration::ZERO,
        ),
        rule(
            "clock not synchronised",
            "machine.clock_synchronised",
            When::Below { limit: 1, clear: 1 },
            minute,
            60 * minute,
        ),
        rule("temperature", "machine.temperature_millicelsius", above(80_000, 75_000), minute, minute),
        rule("throttled", "machine.throttled", above(0, 0), Duration::ZERO, minute),
        rule("under-voltage", "machine.under_voltage", above(0, 0), Duration::ZERO, Duration::ZERO),
    ];
    let written = mib("spool.write_budget_mb_per_day");
    if written > 0 {
        rules.push(rule(
            "write budget",
            "storage.written_day_bytes",
            above(written, written / 10 * 9),
            minute,
            Duration::ZERO,
        ));
    }
    rules.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diff::Change;
    use crate::config::table::SECTIONS;

    #[test]
    fn the_shipped_rules_watch_metrics_that_exist() {
        let rules = shipped(&Values::new(SECTIONS));
        assert_eq!(rules.len(), 11, "{rules:?}");
        for (key, name) in LIMITS {
            assert!(rules.iter().any(|rule| rule.name == name), "{name}");
            let (section, setting) = key.split_once('.').unwrap();
            let section = SECTIONS.iter().find(|found| found.name == section).unwrap();
            let setting = section.settings.iter().find(|found| found.key == setting).unwrap();
            assert_eq!(setting.needs, Change::RestartProcess, "{key}");
        }
    }
}
