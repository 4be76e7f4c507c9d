//! `flytrap top`: the screen of a running program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flytrap::platform::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::{describe, flytrap, output, skip};
use crate::receivers::programs::free_port;
use crate::status::get;

/// Longest wait for an expected result.
const PATIENCE: Duration = Duration::from_secs(60);

fn top(arguments: &[&str]) -> Output {
    output(flytrap().arg("top").args(arguments))
}

/// The text of a refusal: one line on stderr, and nothing else.
fn refusal(arguments: &[&str], code: i32) -> String {
    let done = top(arguments);
    assert_eq!(done.status.code(), Some(code), "{}", describe(&done));
    let line = String::from_utf8(done.stderr).unwrap();
    assert!(
        done.stdout.is_empty() && line.lines().count() == 1 && line.starts_with("flytrap top: "),
        "{line}"
    );
    line
}

#[test]
fn it_shows_what_a_device_does() {
    let port = free_port();
    let daemon = Daemon::start(flytrap(), |folder| {
        let token = folder.join("token");
        std::fs::write(&token, "s3cret-token\n").unwrap();
        format!(
            "device.name = \"mast-7\"\n[status]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"{}\"\n\
             [[camera]]\nname = \"street\"\nsource = \"sim:7,calm,day,overcast,traffic=3\"\n\
             [[alert]]\nname = \"young\"\nmetric = \"stats.uptime_ms\"\nwhen = \"below\"\nlimit = 86400000\nwindow_s = 0\nhold_s = 0\n",
            token.display()
        )
    });
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let at = address.to_string();
    // The page's own figures, once there are crossings.
    let overview = daemon.wait_for("crossings", |_| {
        let (_, body) = get(address, "/status.json", "Authorization: Bearer s3cret-token\r\n")?;
        let overview: Value = serde_json::from_str(&body).ok()?;
        (overview["today"]["crossings"]["street"].as_u64()? > 0).then_some(overview)
    });
    let crossings = |overview: &Value| overview["cameras"]["street"]["crossings"].as_u64();
    assert_eq!(
        overview["today"]["crossings"]["street"].as_u64(),
        crossings(&overview),
        "all since the start"
    );
    let alerts = overview["alerts"].as_array().unwrap();
    let young = alerts.iter().find(|alert| alert["rule"] == "young").unwrap();
    assert!(young["active"] == true && young["since_s"].is_u64(), "{young}");
    assert!(young["text"].as_str().unwrap().starts_with("young: uptime_ms is "), "{young}");
    let quiet = alerts.iter().find(|alert| alert["active"] == false).unwrap();
    assert!(quiet["since_s"].is_null() && quiet["text"].is_null(), "{quiet}");

    let token = daemon.path("token").display().to_string();
    let done = top(&["--once", "--at", &at, "--token-file", &token]);
    let text = String::from_utf8(done.stdout.clone()).unwrap();
    assert!(done.status.success() && !text.contains('\u{1b}'), "{}", describe(&done));
    let row: Vec<&str> =
        text.lines().find(|line| line.starts_with("street")).unwrap().split_whitespace().collect();
    assert_eq!(row[1], "ok", "{text}");
    assert!(
        row[2].parse::<f64>().unwrap() > 0.0 && row.last().unwrap().parse::<u64>().unwrap() > 0,
        "{text}"
    );
    assert!(text.starts_with("mast-7  up ") && text.contains("young: uptime_ms is "), "{text}");
    // Without --once it is the same where there is no terminal.
    let same = top(&["--at", &format!("http://{at}"), "--token-file", &token]);
    assert!(same.status.success() && same.stdout.starts_with(b"mast-7  up "), "{}", describe(&same));
    let json = top(&["--json", "--at", &at, "--token-file", &token]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["device"], "mast-7");

    assert!(refusal(&["--at", &at], 2).contains("wants a token (401)"));
    let wrong = daemon.path("wrong");
    std::fs::write(&wrong, "another-token").unwrap();
    let line = refusal(&["--at", &at, "--token-file", &wrong.display().to_string()], 2);
    assert!(line.contains("refuses the token (401)") && !line.contains("another-token"), "{line}");
}

#[test]
fn what_is_not_there_is_named_in_one_line() {
    let nowhere = format!("127.0.0.1:{}", free_port());
    let line = refusal(&["--at", &nowhere], 1);
    assert!(
        line.contains("nothing listens at 127.0.0.1") && line.contains("flytrap is not running"),
        "{line}"
    );
    assert!(refusal(&["--at", "mast-7"], 2).contains("write HOST:PORT"));
    assert!(refusal(&["--at", "/no/such/status.sock"], 1).contains("status.socket is elsewhere"));
    let folder = tempfile::tempdir().unwrap();
    let mut command = flytrap();
    command.arg("top").env("RUNTIME_DIRECTORY", folder.path()).env("XDG_RUNTIME_DIR", folder.path());
    if !Path::new("/run/flytrap/status.sock").exists() {
        let done = output(&mut command);
        let line = describe(&done);
        let tried = folder.path().join("status.sock").display().to_string();
        assert!(done.status.code() == Some(1) && line.contains(&tried) && line.contains("--at"), "{line}");
    }
    let other = Server::start(free_port(), "HTTP/1.1 200 OK\r\n\r\n{\"no\": \"device\"}".into());
    assert!(refusal(&["--at", &other.address()], 1).contains("instead of a page of flytrap"));
}

/// Answers every request with the same bytes.
struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(port: u16, reply: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let _whatever = stream.read(&mut request);
                let _gone = stream.write_all(reply.as_bytes());
            }
        });
        Server { port, stop, thread: Some(thread) }
    }

    /// With a page of one camera.
    fn of_camera(port: u16, camera: &str) -> Self {
        let page = format!(
            "{{\"device\": \"mast-7\", \"version\": \"0.1.0\", \"stats\": {{\"uptime_ms\": 1000}}, \"cameras\": {{\"{camera}\": {{\"lost\": 0, \
             \"last_frame_age_ms\": 5, \"rate_processed_millihertz\": 6000}}}}, \"alerts\": []}}"
        );
        Server::start(port, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()))
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _wakes_it = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// `flytrap top` in a pseudo terminal of 80x24, between two looks at the terminal's settings.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
    folder: tempfile::TempDir,
}

impl Terminal {
    /// `None`, printed as skipped: there is no `script`.
    fn start(test: &str, address: &str) -> Option<Self> {
        if !Command::new("script").arg("--version").output().is_ok_and(|done| done.status.success()) {
            skip(test, "script (util-linux) is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let line = format!(
            "cd {} && stty rows 24 cols 80 && tty > tty && stty -g > before; sh -c 'echo $$ > pid; exec {} top --at {address}'; \
             echo $? > code; stty -g > after",
            folder.path().display(),
            env!("CARGO_BIN_EXE_flytrap")
        );
        let mut child = Command::new("script")
            .args(["-q", "-c", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&shown);
        let _ends_with_the_output = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                copy.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Some(Terminal { child, keys, shown, folder })
    }

    /// Everything so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// The last complete screen.
    fn screen(&self) -> String {
        self.text().rsplit("\u{1b}[H").next().unwrap_or_default().to_owned()
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Terminal) -> bool) {
        let first = SystemClock.mono();
        while !holds(self) {
            assert!(SystemClock.mono().since(first) < PATIENCE, "not {what}: {:?}", self.text());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end; the terminal must be as it was.
    fn ends(self) {
        self.wait_until("ended", |terminal| !terminal.file("after").is_empty());
        self.wait_until("restored", |terminal| terminal.text().contains("\u{1b}[?25h\u{1b}[?1049l"));
        assert_eq!(self.file("code"), "0", "{:?}", self.text());
        assert_eq!(self.file("before"), self.file("after"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn keys_and_signals_end_it_and_the_terminal_is_as_before() {
    const NAME: &str = "keys_and_signals_end_it_and_the_terminal_is_as_before";
    let server = Server::of_camera(free_port(), "north");
    for end in ["q", "\u{3}", "\u{1b}", "TERM", "HUP"] {
        let Some(mut terminal) = Terminal::start(NAME, &server.address()) else { return };
        terminal.wait_until("shown", |terminal| terminal.screen().contains("north"));
        assert!(terminal.text().contains("\u{1b}[?1049h\u{1b}[?25l"), "{:?}", terminal.text());
        let during = Command::new("stty").args(["-F", &terminal.file("tty"), "-g"]).output().unwrap();
        let during = String::from_utf8(during.stdout).unwrap();
        assert!(!during.is_empty() && during.trim() != terminal.file("before"), "keys come one by one");
        // Other keys do nothing.
        terminal.press("x\u{1b}[A");
        if end.len() == 1 {
            terminal.press(end);
        } else {
            let pid = terminal.file("pid");
            let sent = Command::new("kill").args(["-s", end, &pid]).status().unwrap();
            assert!(sent.success());
        }
        terminal.ends();
    }
}

#[test]
fn it_follows_the_size_and_survives_a_restart_of_the_device() {
    const NAME: &str = "it_follows_the_size_and_survives_a_restart_of_the_device";
    let port = free_port();
    let server = Server::of_camera(port, "north");
    let Some(mut terminal) = Terminal::start(NAME, &server.address()) else { return };
    terminal.wait_until("shown", |terminal| terminal.screen().contains("alerts"));
    assert!(
        terminal.screen().contains("throttled -, under-voltage -"),
        "80 columns: {:?}",
        terminal.screen()
    );
    let resized =
        Command::new("stty").args(["-F", &terminal.file("tty"), "rows", "9", "cols", "40"]).status().unwrap();
    assert!(resized.success());
    terminal.wait_until("smaller", |terminal| {
        let screen = terminal.screen();
        let lines: Vec<&str> = screen.split("\r\n").collect();
        let width = |line: &&str| line.replace("\u{1b}[K", "").replace("\u{1b}[J", "").chars().count();
        screen.contains("no alerts") && lines.len() <= 9 && lines.iter().map(width).max() <= Some(40)
    });
    drop(server);
    terminal.wait_until("silent", |terminal| terminal.screen().contains("no answer for"));
    let _server = Server::of_camera(port, "south");
    terminal.wait_until("back", |terminal| {
        let screen = terminal.screen();
        screen.contains("south") && !screen.contains("no answer")
    });
    terminal.press("q");
    terminal.ends();
}
