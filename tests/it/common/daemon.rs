//! The program as a daemon in a folder of its own, beside the test that watches it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flytrap::platform::clock::{Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for an expected result.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; killed when dropped. Its folder has its configuration, its events and its log.
pub(crate) struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Daemon {
    /// Starts `command` (the program, possibly through another one) with what `text` gives for its folder as configuration. Events go to a
    /// file.
    pub(crate) fn start(command: Command, text: impl FnOnce(&Path) -> String) -> Self {
        Daemon::start_to(command, |folder| format!("file:{}", folder.join("events").display()), text)
    }

    /// The same with events that go to the `target` for its folder.
    pub(crate) fn start_to(
        mut command: Command,
        target: impl FnOnce(&Path) -> String,
        text: impl FnOnce(&Path) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flytrap.toml");
        std::fs::write(&file, text(folder.path())).unwrap();
        let stderr = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let target = target(folder.path());
        command.args(["run", "--model", "builtin", "--uplink", &target, "--config"]).arg(file);
        // Its status socket is beside its other files.
        command.env("RUNTIME_DIRECTORY", folder.path());
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Daemon { child, folder }
    }

    /// A file of its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The events so far; the last line may be half written.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("events")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// Waits until there is something to `get`.
    pub(crate) fn wait_for<T>(&self, what: &str, get: impl Fn(&Daemon) -> Option<T>) -> T {
        let first = SystemClock.mono();
        loop {
            if let Some(found) = get(self) {
                return found;
            }
            assert!(SystemClock.mono().since(first) < PATIENCE, "not {what}: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits until the events fulfil a condition.
    pub(crate) fn wait_for_events(&self, what: &str, fulfilled: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        self.wait_for(what, |daemon| Some(daemon.events()).filter(|events| fulfilled(events)))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as the service manager does; returns how it ended, all events and its log.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<Value>, String) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        (status, self.events(), self.log())
    }
}
