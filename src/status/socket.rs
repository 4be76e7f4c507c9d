//! The status socket: the same pages on a Unix socket, for the commands `flytrap top`, `kpi` and `reload` on this device. Whoever may write to
//! the socket may read the figures and ask for a reload: its user and its group.
//!
//! A program that was killed leaves its socket behind. The lock beside it tells whether the program still runs: who has the lock may replace
//! the socket. A folder in which somebody else could put something in the way is not used.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::platform::process::lock_file;

/// Name of the socket in its folder.
const NAME: &str = "status.sock";
/// The folder for the system's services.
const SYSTEM_FOLDER: &str = "/run/flytrap";
/// Longest path of a socket, bytes: 108 with the zero at its end (unix(7)).
const PATH_BYTES_MAX: usize = 107;
/// The setting, for messages.
const SETTING: &str = "status.socket";

/// Where a program puts its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    None,
    /// In the folder of systemd's `RuntimeDirectory=`, of the user's session, or `/run/flytrap`: the first that can be used.
    Auto,
    /// Here.
    Path(PathBuf),
}

impl Place {
    /// What the user wrote: nothing, `auto`, or a path.
    ///
    /// # Errors
    /// Why it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Place::None),
            "auto" => Ok(Place::Auto),
            path if !path.starts_with('/') => Err("must be \"auto\", \"\" or an absolute path".into()),
            path if path.len() > PATH_BYTES_MAX => {
                Err(format!("the path of a socket has at most {PATH_BYTES_MAX} bytes"))
            }
            path => Ok(Place::Path(path.into())),
        }
    }
}

/// Where the socket of a running program may be, the likeliest first.
pub fn candidates() -> Vec<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    candidates_in(folder("RUNTIME_DIRECTORY"), folder("XDG_RUNTIME_DIR"))
}

fn candidates_in(service: Option<PathBuf>, session: Option<PathBuf>) -> Vec<PathBuf> {
    // systemd separates several with colons.
    let first = |path: PathBuf| {
        let text = path.to_string_lossy().into_owned();
        PathBuf::from(text.split(':').next().unwrap_or_default())
    };
    let session = session.map(|path| path.join("flytrap"));
    let mut folders: Vec<PathBuf> = service.map(first).into_iter().chain(session).collect();
    folders.push(SYSTEM_FOLDER.into());
    folders.into_iter().map(|folder| folder.join(NAME)).collect()
}

/// The socket of a program, while it can have one. Removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    places: Vec<PathBuf>,
    bound: Option<Bound>,
    /// That there is none was said.
    said: bool,
}

/// A socket in place.
#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of its file.
    file: (u64, u64),
    /// Held as long as the program runs.
    _lock: File,
}

impl Socket {
    /// For a program that wants its socket there; `None`: nowhere.
    pub fn new(place: &Place) -> Option<Self> {
        let places = match place {
            Place::None => return None,
            Place::Auto => candidates(),
            Place::Path(path) => vec![path.clone()],
        };
        Some(Socket { places, bound: None, said: false })
    }

    /// Listens at the first place that can be used, unless it does already. A socket whose file is gone, as after the end of the user's
    /// session, is made again. That there is none the log says once: nothing else depends on it.
    pub fn keep(&mut self) {
        if self.bound.as_ref().is_some_and(Bound::is_in_place) {
            return;
        }
        self.bound = None;
        let mut failures = Vec::new();
        for path in &self.places {
            match Bound::new(path) {
                Ok(bound) => {
                    tracing::info!("status socket at {}", path.display());
                    (self.bound, self.said) = (Some(bound), false);
                    return;
                }
                Err(why) => failures.push(why),
            }
        }
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                "flytrap top, kpi and reload cannot reach this program: {}; it is tried again",
                failures.join("; ")
            );
        }
    }

    /// The next connection, which does not block.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        let Some(bound) = &self.bound else { return Err(io::ErrorKind::WouldBlock.into()) };
        let (stream, _) = bound.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    }

    /// What to wait for.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.bound.as_ref().map(|bound| bound.listener.as_fd())
    }
}

impl Bound {
    /// Listens at `path`.
    ///
    /// # Errors
    /// Why not, and the remedy.
    fn new(path: &Path) -> Result<Self, String> {
        Bound::open(path).map_err(|error| {
            let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
            let remedy = if is(&[io::ErrorKind::WouldBlock]) {
                "another flytrap has it: give each its own path, or \"\" for none"
            } else if is(&[io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound]) {
                "the folder cannot be written: choose another path, or set RuntimeDirectory=flytrap in the service's unit"
            } else {
                "choose another path, or \"\" for none"
            };
            format!("{SETTING} {}: {error}: {remedy}", path.display())
        })
    }

    fn open(path: &Path) -> io::Result<Self> {
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            return Err(invalid("not the path of a file"));
        };
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let folder = File::open(folder)?;
        if !is_safe(&folder.metadata()?, rustix::process::geteuid().as_raw()) {
            return Err(invalid("its folder belongs to another user, or others may write to it"));
        }
        let lock = lock_file(&folder, &format!("{name}.lock"))?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a file that is not a socket is there",
                ));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        let file = identity(&std::fs::symlink_metadata(path)?);
        Ok(Bound { listener, path: path.to_owned(), file, _lock: lock })
    }

    /// Whether its file is still there, and not another's.
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_in_place() {
            let _the_next_start_replaces_it = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether nobody but the user `own` and root can put something into a folder.
fn is_safe(folder: &Metadata, own: u32) -> bool {
    (folder.uid() == own || folder.uid() == 0) && folder.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// Another test's child may hold a lock for a moment.
    fn bound(path: &Path) -> Bound {
        for _ in 0..100 {
            match Bound::new(path) {
                Err(why) if why.contains("another flytrap") => {
                    std::thread::park_timeout(std::time::Duration::from_millis(50));
                }
                other => return other.unwrap(),
            }
        }
        panic!("{} stays locked", path.display());
    }

    #[test]
    fn the_service_folder_comes_before_the_session() {
        let paths = |service: Option<&str>, session: Option<&str>| -> Vec<String> {
            let found = candidates_in(service.map(PathBuf::from), session.map(PathBuf::from));
            found.into_iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(paths(None, None), ["/run/flytrap/status.sock"]);
        assert_eq!(
            paths(Some("/run/a:/run/b"), Some("/run/user/7")),
            ["/run/a/status.sock", "/run/user/7/flytrap/status.sock", "/run/flytrap/status.sock"]
        );
    }

    #[test]
    fn a_place_is_a_word_or_an_absolute_path() {
        assert_eq!(Place::parse(""), Ok(Place::None));
        assert_eq!(Place::parse("auto"), Ok(Place::Auto));
        assert_eq!(Place::parse("/run/a"), Ok(Place::Path("/run/a".into())));
        assert!(Place::parse("a.sock").unwrap_err().contains("absolute"));
        assert!(Place::parse(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).unwrap_err().contains("107"));
        assert!(Socket::new(&Place::None).is_none());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/status.sock");
        // As a killed program leaves it.
        std::fs::create_dir(folder.path().join("below")).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let first = bound(&path);
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let why = Bound::new(&path).unwrap_err();
        assert!(why.contains("status.socket") && why.contains("another flytrap"), "{why}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        bound(&path);
    }

    #[test]
    fn a_socket_whose_file_is_gone_is_made_again_at_the_first_place_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let [file, path] = ["file", "session/status.sock"].map(|name| folder.path().join(name));
        std::fs::write(&file, "").unwrap();
        let mut socket =
            Socket { places: vec![file.join("status.sock"), path.clone()], bound: None, said: false };
        socket.keep();
        UnixStream::connect(&path).unwrap();
        assert!(socket.accept().is_ok());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        socket.keep();
        UnixStream::connect(&path).unwrap();
        assert!(socket.accept().is_ok());
        // What is another program's by now is not removed.
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn other_files_and_unsafe_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        let why = Bound::new(&path).unwrap_err();
        assert!(why.contains("notes.txt") && why.contains("not a socket"), "{why}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let why = Bound::new(Path::new("/proc/flytrap/status.sock")).unwrap_err();
        assert!(why.contains("cannot be written"), "{why}");
        // A pipe in place of the lock would block for ever.
        let lock = folder.path().join("a.sock.lock");
        rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        Bound::new(&folder.path().join("a.sock")).unwrap_err();
        let metadata = || std::fs::metadata(folder.path()).unwrap();
        let own = metadata().uid();
        assert!(is_safe(&metadata(), own));
        assert_eq!(is_safe(&metadata(), own + 1), own == 0, "of another user");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let why = Bound::new(&folder.path().join("b.sock")).unwrap_err();
        assert!(why.contains("others may write"), "{why}");
    }
}
