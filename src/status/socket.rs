//! The status socket: the same pages on a Unix socket, for the commands `flytrap top`, `kpi` and `reload` on this device. Whoever may write to
//! the socket may read the figures and ask for a reload: its user and its group.
//!
//! A program that was killed leaves its socket behind. The lock beside it tells whether the program still runs: who has the lock may replace
//! the socket.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::base::error::{Error, Kind, Result};

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
    /// In the folder of systemd's `RuntimeDirectory=`, of the user's session, or `/run/flytrap`: the first that there is.
    Auto,
    /// Here.
    Path(PathBuf),
}

impl Place {
    /// What the user wrote: nothing, `auto`, or a path.
    ///
    /// # Errors
    /// Why it is neither.
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

/// A socket on which a program listens. Removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the program runs.
    _lock: File,
}

impl Socket {
    /// Listens at `place`. `None`: nowhere is asked for, or nowhere is possible with [`Place::Auto`], which the log then says.
    ///
    /// # Errors
    /// `Kind::System`: the path cannot be used; with the remedy.
    pub fn open(place: &Place) -> Result<Option<Self>> {
        match place {
            Place::None => Ok(None),
            Place::Path(path) => Socket::bind(path).map(Some),
            Place::Auto => {
                let path = candidates().into_iter().next().unwrap_or_default();
                match Socket::bind(&path) {
                    Ok(socket) => Ok(Some(socket)),
                    Err(error) => {
                        tracing::info!("{error}; flytrap top, kpi and reload cannot reach this program");
                        Ok(None)
                    }
                }
            }
        }
    }

    /// # Errors
    /// `Kind::System`.
    fn bind(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            let place = path.display();
            let remedy = match error.kind() {
                io::ErrorKind::WouldBlock => {
                    "another flytrap on this device has it: give each its own path, or \"\" for none"
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
                    "the folder cannot be written: choose another path, or \"\" for none"
                }
                _ => "choose another path, or \"\" for none",
            };
            Error::fatal(Kind::System, format!("{SETTING} {place}: {remedy}")).caused_by(error)
        };
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_extension("lock"))
            .map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        let listener = replace(path).map_err(failed)?;
        Ok(Socket { listener, path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, which does not block either.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _the_next_start_replaces_it = std::fs::remove_file(&self.path);
    }
}

/// Listens in place of a socket that a killed program left. Any other file there stays.
fn replace(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

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
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/status.sock");
        let place = Place::Path(path.clone());
        // As a killed program leaves it.
        std::fs::create_dir(folder.path().join("below")).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::open(&place).unwrap().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = Socket::open(&place).unwrap_err().to_string();
        assert!(error.contains("status.socket") && error.contains("another flytrap"), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        Socket::open(&place).unwrap();
    }

    #[test]
    fn other_files_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        let error = Socket::open(&Place::Path(path.clone())).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let error = Socket::open(&Place::Path("/proc/flytrap/status.sock".into())).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
        assert!(Socket::open(&Place::None).unwrap().is_none());
    }
}
