//! The disk below the spool: the few operations that it needs, as a trait, so that tests can use a disk that loses power.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::segment::Named;
use crate::platform::process;

/// Most segment files that a folder may hold. A spool of the largest quota has 16 384 segments.
pub const FILES_MAX: usize = 65_536;

/// A folder of segment files. Nothing is durable before the `sync` that covers it; before that, writes may reach the disk in any order.
pub trait Disk: Send + std::fmt::Debug {
    /// Names and sizes of all files with names of segments. Other files are ignored, however many there are.
    ///
    /// # Errors
    /// The folder cannot be read, or has more than [`FILES_MAX`] segments.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;

    /// Creates a file with space for `bytes`. Its contents are unspecified.
    ///
    /// # Errors
    /// It exists, or there is no space.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// It is missing, or cannot be opened.
    fn open(&mut self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`]: another file has that name, and keeps it. Else the error of the disk.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The error of the disk.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes names durable: all creations, renames and removals so far.
    ///
    /// # Errors
    /// The error of the disk; the state of the names is unknown then.
    fn sync_names(&mut self) -> io::Result<()>;

    /// Bytes that are free for this program on the file system.
    ///
    /// # Errors
    /// The error of the disk.
    fn free_bytes(&mut self) -> io::Result<u64>;

    /// Checks that the open folder is still the one at its path.
    ///
    /// # Errors
    /// It was removed or replaced, or something is mounted over it: files written to it cannot be reached by path.
    fn still_in_place(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open segment file.
pub trait DiskFile: Send + std::fmt::Debug {
    /// Fills `buffer` from `offset`, less only at the end of the file.
    ///
    /// # Errors
    /// The error of the disk.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The error of the disk; any part of the bytes may have been written.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents durable.
    ///
    /// # Errors
    /// The error of the disk. Never call it again then: the kernel drops the pages that it could not write, and reports success.
    fn sync(&mut self) -> io::Result<()>;

    /// Truncates or extends the file.
    ///
    /// # Errors
    /// The error of the disk.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;
}

/// A real folder. All files are accessed through the open folder, whatever happens to its path.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    names: File,
    /// Device and inode of the folder.
    identity: (u64, u64),
    /// Held until the end, so that only one program writes to a spool.
    lock: Option<File>,
    /// The file system cannot sync a folder, which was logged.
    no_folder_sync: bool,
}

impl Folder {
    /// Name of the lock file that the writing program holds.
    pub const LOCK: &'static str = "lock";

    /// Opens the folder at `path` for this program alone; creates it if it is missing.
    ///
    /// # Errors
    /// It cannot be created or opened; [`io::ErrorKind::WouldBlock`]: another program uses it; [`io::ErrorKind::InvalidInput`]: its lock is
    /// not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let mut folder = Folder::inspect(path)?;
        let lock = process::lock_file(&folder.names, Self::LOCK)?;
        // An overlay file system copies a folder when something is first created in it: what counts is its identity from then on.
        folder.identity = identity(&rustix::fs::stat(path)?);
        folder.lock = Some(lock);
        Ok(folder)
    }

    /// Opens the folder at `path` for reading only, whether a program writes to it or not.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn inspect(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let names = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let identity = identity(&rustix::fs::fstat(&names)?);
        Ok(Folder { path: path.to_owned(), names, identity, lock: None, no_folder_sync: false })
    }

    fn open_at(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        // A link to another place or a blocking pipe is not a segment.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(&self.names, name, flags, Mode::from_raw_mode(0o644)).map(File::from)
    }

    /// Reserves space for a new file, as far as the file system can guarantee it.
    fn reserve(file: &File, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO | Errno::ROFS)) => {
                Err(error.into())
            }
            // FAT, network and user-space file systems cannot, with various error codes: a full disk is then found out while writing.
            Err(_) => file.set_len(bytes),
        }
    }
}

fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Disk for Folder {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.names)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if Named::parse(name).is_none() {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.names, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            if files.len() == FILES_MAX {
                return Err(io::Error::other(format!("it has more than {FILES_MAX} segment files")));
            }
            files.push((name.to_owned(), u64::try_from(stat.st_size).unwrap_or(0)));
        }
        Ok(files)
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        match Folder::reserve(&file, bytes) {
            Ok(()) => Ok(Box::new(file)),
            Err(error) => {
                drop(file);
                let _tried = self.remove(name); // We created it.
                Err(error)
            }
        }
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = match self.open_at(name, OFlags::RDWR) {
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => self.open_at(name, OFlags::RDONLY)?,
            other => other?,
        };
        Ok(Box::new(file))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.names, from, &self.names, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
        // The file system cannot do both in one step; no other program renames files here.
        match rustix::fs::statat(&self.names, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(Errno::NOENT) => Ok(rustix::fs::renameat(&self.names, from, &self.names, to)?),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.names, name, AtFlags::empty())?)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        match rustix::fs::fsync(&self.names) {
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            other => return Ok(other?),
        }
        if !std::mem::replace(&mut self.no_folder_sync, true) {
            tracing::warn!(
                "spool.folder '{}': its file system cannot sync a folder; all of it is synced instead, if it can",
                self.path.display()
            );
        }
        match rustix::fs::syncfs(&self.names) {
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()), // Nothing better is available.
            other => Ok(other?),
        }
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.names)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn still_in_place(&mut self) -> io::Result<()> {
        let gone = |text: &str| Err(io::Error::new(io::ErrorKind::NotFound, text));
        match rustix::fs::stat(&self.path) {
            Ok(stat) if identity(&stat) != self.identity => {
                return gone("its folder was replaced, or something is mounted over it");
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return gone("its folder is gone"),
            Ok(_) | Err(_) => {} // A failing check is a different error from a folder that is gone.
        }
        match &self.lock {
            Some(lock) if rustix::fs::fstat(lock)?.st_nlink == 0 => gone("its files were removed"),
            Some(_) | None => Ok(()),
        }
    }
}

impl DiskFile for File {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer_and_any_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/spool");
        let mut first = Folder::open(&path).unwrap();
        assert_eq!(Folder::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (a, b) = ("counts-0000000000000001.seg", "free-0000000000000001.seg");
        let mut file = first.create(a, 8192).unwrap();
        assert_eq!(first.create(a, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"hello", 8190).unwrap();
        file.sync().unwrap();
        first.sync_names().unwrap();
        let mut reader = Folder::inspect(&path).unwrap();
        assert_eq!(reader.list().unwrap(), [(a.to_owned(), 8195)]);
        let mut buffer = [0; 8];
        assert_eq!(reader.open(a).unwrap().read_at(&mut buffer, 8190).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        first.rename(a, b).unwrap();
        assert_eq!(reader.open(a).unwrap_err().kind(), io::ErrorKind::NotFound);
        first.create(a, 1).unwrap();
        assert_eq!(
            first.rename(a, b).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists,
            "nothing is replaced"
        );
        first.remove(b).unwrap();
        assert!(reader.free_bytes().unwrap() > 0);
        drop(first);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn a_lock_that_is_not_a_regular_file_is_refused_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let kinds: [fn(&Path, &Path); 3] = [
            |lock, elsewhere| std::os::unix::fs::symlink(elsewhere, lock).unwrap(),
            |lock, _| fs::create_dir(lock).unwrap(),
            |lock, _| {
                let kind = FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, lock, kind, Mode::from_raw_mode(0o600), 0).unwrap();
            },
        ];
        for (index, make) in kinds.into_iter().enumerate() {
            let path = dir.path().join(index.to_string());
            fs::create_dir(&path).unwrap();
            make(&path.join(Folder::LOCK), &elsewhere);
            let refused = Folder::open(&path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
        }
        assert!(!elsewhere.exists(), "the link was followed");
    }

    #[test]
    fn a_folder_that_is_not_the_one_at_its_path_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut folder = Folder::open(&path).unwrap();
        folder.still_in_place().unwrap();
        fs::rename(&path, dir.path().join("away")).unwrap();
        let error = |folder: &mut Folder| folder.still_in_place().unwrap_err().to_string();
        assert_eq!(error(&mut folder), "its folder is gone");
        fs::create_dir(&path).unwrap();
        assert_eq!(error(&mut folder), "its folder was replaced, or something is mounted over it");
        let mut folder = Folder::open(&path).unwrap();
        folder.still_in_place().unwrap();
        fs::remove_file(path.join(Folder::LOCK)).unwrap();
        assert_eq!(error(&mut folder), "its files were removed");
    }
}
