//! Injected faults, for tests: `FLYTRAP_FAULT=hang:STAGE:SECONDS` hangs a stage (or `main`) after the program has run
//! this long; `slow:STAGE:SECONDS` makes each of its pieces of work take this long. Release builds ignore the variable.

use std::time::Duration;

use super::Stage;
use crate::base::limits::CAMERAS_MAX;
use crate::platform::clock::Mono;

/// Kind of fault and its stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Hang { after: Duration },
    Slow { by: Duration },
}

/// The faults of this process: none, except in a test build with the variable set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults(Option<(Option<Stage>, Fault)>);

impl Faults {
    /// From the environment, in test builds.
    pub fn from_environment() -> Self {
        if !cfg!(debug_assertions) {
            return Faults(None);
        }
        let faults = std::env::var("FLYTRAP_FAULT").ok().and_then(|text| parse(&text));
        if let Some(faults) = faults {
            tracing::warn!("an injected fault: {faults:?}");
        }
        Faults(faults)
    }

    /// Called when a stage (`None` for the main thread) begins a piece of work, `up` after the start: may never return.
    pub fn inject(&self, stage: Option<Stage>, started: Mono, now: Mono) {
        if !cfg!(debug_assertions) {
            return;
        }
        match self.0 {
            Some((at, Fault::Hang { after })) if at == stage && now.since(started) >= after => loop {
                std::thread::park();
            },
            Some((at, Fault::Slow { by })) if at == stage => std::thread::park_timeout(by),
            Some(_) | None => {}
        }
    }
}

fn parse(text: &str) -> Option<(Option<Stage>, Fault)> {
    let mut parts = text.split(':');
    let (kind, stage, seconds) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    let fault = match kind {
        "hang" => Fault::Hang { after: span },
        "slow" => Fault::Slow { by: span },
        _ => return None,
    };
    let stage = match stage {
        "main" => None,
        "pipeline" => Some(Stage::Pipeline),
        "spool" => Some(Stage::Spool),
        "uplink" => Some(Stage::Uplink),
        // `capture`: of the first camera, `capture1`: of the second.
        name => match name.strip_prefix("capture")? {
            "" => Some(Stage::Capture(0)),
            number => Some(Stage::Capture(number.parse().ok().filter(|camera| *camera < CAMERAS_MAX)?)),
        },
    };
    Some((stage, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let hang = |stage, seconds| Some((stage, Fault::Hang { after: Duration::from_secs(seconds) }));
        assert_eq!(parse("hang:capture:20"), hang(Some(Stage::Capture(0)), 20));
        assert_eq!(parse("hang:capture3:1"), hang(Some(Stage::Capture(3)), 1));
        assert_eq!(parse("hang:main:0"), hang(None, 0));
        let slow = Fault::Slow { by: Duration::from_millis(2500) };
        assert_eq!(parse("slow:pipeline:2.5"), Some((Some(Stage::Pipeline), slow)));
        for bad in
            ["", "hang", "hang:gate:1", "hang:capture8:1", "slow:uplink:-1", "stop:main:1", "hang:main:soon"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
