//! The status socket: where a running program's may be.

use std::path::PathBuf;

/// Paths at which the status socket of a running program may be, the likeliest first.
pub fn candidates() -> Vec<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let service = folder("RUNTIME_DIRECTORY");
    let session = folder("XDG_RUNTIME_DIR").map(|path| path.join("flytrap"));
    let folders = service.into_iter().chain(session).chain([PathBuf::from("/run/flytrap")]);
    folders.map(|folder| folder.join("status.sock")).collect()
}
