//! Servers of streams as child processes: killed, stalled and started again as the test requires.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flytrap::base::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{say, skip};

/// A port of UDP and TCP without a listener.
pub(super) fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program that serves until it is killed: if it ends by itself, as after its only client has left, it is started again.
pub(super) struct Server {
    words: Vec<String>,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    stop: Stop,
    child: Arc<Mutex<Child>>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `words` in `folder`.
    fn start(words: Vec<String>, folder: &Path) -> Self {
        let mut server = Server { words, folder: folder.to_owned(), running: None };
        server.start_again();
        server
    }

    /// ffmpeg, which sends `clip` again and again at its own pace to where `target` says.
    pub(super) fn ffmpeg(clip: &Path, target: &[&str], folder: &Path) -> Self {
        let clip = clip.display().to_string();
        let start =
            ["ffmpeg", "-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", &clip, "-c", "copy"];
        Server::start(start.iter().chain(target).map(|word| (*word).to_owned()).collect(), folder)
    }

    fn spawn(words: &[String], folder: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(folder).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    pub(super) fn start_again(&mut self) {
        let (words, folder, stop) = (self.words.clone(), self.folder.clone(), Stop::new());
        let child = Arc::new(Mutex::new(Self::spawn(&words, &folder)));
        let (theirs, stopped) = (Arc::clone(&child), stop.clone());
        let keeper = std::thread::spawn(move || {
            while !stopped.wait(Duration::from_millis(50)) {
                let mut child = theirs.lock().unwrap();
                if !stopped.requested() && child.try_wait().unwrap().is_some() {
                    *child = Self::spawn(&words, &folder);
                }
            }
        });
        self.running = Some(Running { stop, child, keeper: Some(keeper) });
    }

    pub(super) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.stop.request();
        running.keeper.take().unwrap().join().unwrap();
        let mut child = running.child.lock().unwrap();
        // SIGKILL ends a stopped process too.
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends nothing more, but keeps its connections.
    pub(super) fn stall(&self) {
        let child = self.running.as_ref().unwrap().child.lock().unwrap();
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether this process is in a network of its own, from which nothing else can be reached. If not, `test` is run again in one, because live555MediaServer
/// listens on all interfaces and cannot be told otherwise; its outcome is that of this test.
pub(super) fn in_own_network(test: &str) -> bool {
    const MARK: &str = "FLYTRAP_OWN_NETWORK";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    // Besides loopback an interface that leads nowhere: the server wants one to name its address.
    let script = "ip link set lo up && ip link add eth0 type veth peer name eth1 && ip address add 192.0.2.2/24 dev eth0 && \
                  ip link set eth0 up && exec \"$@\"";
    let within = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--map-root-user", "sh", "-c", script, "sh"]).args(command);
        unshare
    };
    if !within(&["true"]).output().is_ok_and(|output| output.status.success()) {
        skip(test, "a network namespace needs unshare (util-linux), ip (iproute2) and the permission");
        return false;
    }
    let program = std::env::current_exe().unwrap().display().to_string();
    let name = format!("streams::{test}");
    let again = within(&[&program, "--exact", &name, "--nocapture"]).env(MARK, "1").output().unwrap();
    let text = String::from_utf8_lossy(&again.stdout);
    text.lines().filter(|line| line.starts_with("SKIPPED") || line.starts_with("MEASURED")).for_each(say);
    assert!(again.status.success(), "{text}{}", String::from_utf8_lossy(&again.stderr));
    assert!(text.contains("1 passed"), "{text}");
    false
}

/// live555MediaServer, which serves the files of a folder.
pub(super) struct Rtsp {
    pub(super) server: Server,
    pub(super) port: u16,
}

impl Rtsp {
    /// Starts it, or prints that `test` is skipped and why.
    pub(super) fn start(test: &str, folder: &Path) -> Option<Self> {
        let program = match live555() {
            Ok(program) => program,
            Err(why) => {
                skip(test, &why);
                return None;
            }
        };
        let server = Server::start(vec![program.display().to_string()], folder);
        // It takes port 554 if it may, else 8554, and says so: rtsp://address[:port]/<filename>.
        let log = || std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        super::wait_until(
            || log().contains("/<filename>") || log().contains("Failed to create"),
            "the RTSP server",
        );
        let Some(line) = log()
            .lines()
            .find(|line| line.contains("<filename>") && line.contains("rtsp://"))
            .map(str::to_owned)
        else {
            skip(test, "ports 554 and 8554 are in use");
            return None;
        };
        let port =
            line.split("/<filename>").next().unwrap().rsplit(':').next().unwrap().parse().unwrap_or(554);
        Some(Rtsp { server, port })
    }
}

/// The program: the system's, or one that is unpacked from Debian's package.
fn live555() -> Result<PathBuf, String> {
    let found = Command::new("sh").args(["-c", "command -v live555MediaServer"]).output();
    if let Some(path) = found.ok().filter(|output| output.status.success()) {
        return Ok(String::from_utf8_lossy(&path.stdout).trim().into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let folder = cache.unwrap_or_else(std::env::temp_dir).join("flytrap-tests/streams");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/streams/get");
    let output = Command::new(&script).arg(&folder).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(folder.join("live555"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// A server of RTSP or HTTP that asks for a password and then says nothing, until it refuses.
pub(super) struct Answering {
    pub(super) port: u16,
    received: Arc<Mutex<String>>,
    refuses: Arc<AtomicBool>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (received, refuses, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)), Stop::new());
        let shared = (Arc::clone(&received), Arc::clone(&refuses), stop.clone());
        let thread = std::thread::spawn(move || serve(&listener, &shared.0, &shared.1, &shared.2));
        Answering { port, received, refuses, stop, thread: Some(thread) }
    }

    /// All requests so far.
    pub(super) fn received(&self) -> String {
        self.received.lock().unwrap().clone()
    }

    /// From now on the password is wrong.
    pub(super) fn refuse(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.request();
        if self.thread.take().unwrap().join().is_err() {
            say("the server of a test failed");
        }
    }
}

fn serve(listener: &TcpListener, received: &Mutex<String>, refuses: &AtomicBool, stop: &Stop) {
    let mut connections = Vec::new();
    while !stop.wait(Duration::from_millis(10)) {
        if let Ok((connection, _)) = listener.accept() {
            connection.set_nonblocking(true).unwrap();
            connections.push((connection, String::new()));
        }
        for (connection, request) in &mut connections {
            let mut bytes = [0; 4096];
            if let Ok(count) = connection.read(&mut bytes) {
                request.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            let Some(end) = request.find("\r\n\r\n") else { continue };
            let has_password = request[..end].contains("Authorization:");
            if has_password && !refuses.load(Ordering::Relaxed) {
                received.lock().unwrap().push_str(request);
                continue; // Says nothing.
            }
            received.lock().unwrap().push_str(&request[..end]);
            let number = request
                .lines()
                .find_map(|line| line.strip_prefix("CSeq: "))
                .map(|n| format!("CSeq: {n}\r\n"));
            let (protocol, number) =
                number.map_or(("HTTP/1.1", String::new()), |number| ("RTSP/1.0", number));
            let is_options = request.starts_with("OPTIONS");
            let (status, more) = match (is_options, has_password) {
                (true, _) => ("200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n"),
                (false, false) => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"camera\"\r\n"),
                (false, true) => ("403 Forbidden", ""),
            };
            let answer = format!("{protocol} {status}\r\n{number}{more}Content-Length: 0\r\n\r\n");
            let _gone = connection.write_all(answer.as_bytes());
            request.drain(..end + 4);
        }
    }
}
