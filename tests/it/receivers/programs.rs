//! Real receivers and scrapers as child processes of a test: in a folder of their own, on 127.0.0.1, killed and restarted as the test requires.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flytrap::platform::clock::{Clock, SystemClock};

/// Longest wait for a program to listen. InfluxDB on a busy machine needs some seconds.
const START_MAX: Duration = Duration::from_secs(60);

/// The folder with the unpacked Debian `packages`, or why there is none.
pub(crate) fn unpacked(packages: &[&str]) -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let folder = cache.unwrap_or_else(std::env::temp_dir).join("flytrap-tests/receivers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/receivers/get");
    let out = Command::new(&script)
        .arg(&folder)
        .args(packages)
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if out.status.success() {
        Ok(folder)
    } else {
        Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }
}

/// Waits for this long.
pub(crate) fn pause(time: Duration) {
    flytrap::base::stop::Stop::new().wait(time);
}

/// A port without a listener.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A program that can be restarted.
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Program {
    /// Starts `path` with `args`, which make it listen on `port`, and waits until it listens.
    pub(crate) fn start(path: PathBuf, args: &[&str], folder: &Path, port: u16) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut program = Program { path, args, log: folder.join("log"), port, child: None };
        program.start_again();
        program
    }

    pub(crate) fn start_again(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.path.display())));
        let begun = SystemClock.mono();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            let late = SystemClock.mono().since(begun) > START_MAX;
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(
                ended.is_none() && !late,
                "{} does not listen: {ended:?}: {}",
                self.path.display(),
                log()
            );
            pause(Duration::from_millis(20));
        }
    }

    /// SIGKILL: nothing more is written.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, then waits for the exit.
    pub(crate) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let id = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
