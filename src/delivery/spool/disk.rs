//! The disk below the spool: the few operations that it needs, behind a trait that tests replace by a disk which loses power.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::platform::process::lock_folder;

/// Most files of a folder that are looked at. A spool of the largest quota has 16 384 segments.
pub const FILES_MAX: usize = 65_536;

/// A folder of segment files. Nothing is durable before the `sync` that covers it, and then in any order.
pub trait Disk: Send + std::fmt::Debug {
    /// Names and sizes of at most [`FILES_MAX`] files.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;

    /// A new file with room for `bytes`. What is in it is not said.
    ///
    /// # Errors
    /// It exists, or there is no room.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// A file that is there.
    ///
    /// # Errors
    /// It is not, or cannot be opened.
    fn open(&mut self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of a file that has it.
    ///
    /// # Errors
    /// As the disk says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file away.
    ///
    /// # Errors
    /// As the disk says.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes names durable: those created, renamed and removed so far.
    ///
    /// # Errors
    /// As the disk says; nothing is known about the names then.
    fn sync_names(&mut self) -> io::Result<()>;

    /// Bytes that are free for this program on the file system.
    ///
    /// # Errors
    /// As the disk says.
    fn free_bytes(&mut self) -> io::Result<u64>;
}

/// An open segment file.
pub trait DiskFile: Send + std::fmt::Debug {
    /// Fills `buffer` from `offset`, less only at the end of the file.
    ///
    /// # Errors
    /// As the disk says.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As the disk says; any part of the bytes may have been written.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents durable.
    ///
    /// # Errors
    /// As the disk says. Never call it a second time then: the kernel forgets what it could not write, and says yes.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the disk says.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;
}

/// A folder of the machine.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    names: File,
    /// Held until the end: one program writes to a spool.
    _lock: Option<File>,
}

impl Folder {
    /// Name of the file whose lock says that a program writes here.
    pub const LOCK: &'static str = "lock";

    /// The folder at `path`, made if it is not there, for this program alone.
    ///
    /// # Errors
    /// It cannot be made or opened; [`io::ErrorKind::WouldBlock`]: another program has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let lock = lock_folder(path, Self::LOCK)?;
        Ok(Folder { path: path.to_owned(), names: File::open(path)?, _lock: Some(lock) })
    }

    /// The folder at `path` for looking only, whoever writes to it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn look(path: &Path) -> io::Result<Self> {
        Ok(Folder { path: path.to_owned(), names: File::open(path)?, _lock: None })
    }
}

impl Disk for Folder {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)?.take(FILES_MAX) {
            let entry = entry?;
            if let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata())
                && metadata.is_file()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // FAT and some network file systems cannot reserve room: then it is found out while writing.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes)?,
            Err(error) => {
                drop(file);
                let _tried = fs::remove_file(&path);
                return Err(error.into());
            }
        }
        Ok(Box::new(file))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                File::open(&path)?
            }
            other => other?,
        };
        Ok(Box::new(file))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.names.sync_all()
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.names)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
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
        let mut file = first.create("a", 8192).unwrap();
        assert_eq!(first.create("a", 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"hello", 8190).unwrap();
        file.sync().unwrap();
        first.sync_names().unwrap();
        let mut reader = Folder::look(&path).unwrap();
        let mut names = reader.list().unwrap();
        names.sort();
        assert_eq!(names, [("a".to_owned(), 8195), ("lock".to_owned(), 0)]);
        let mut buffer = [0; 8];
        assert_eq!(reader.open("a").unwrap().read_at(&mut buffer, 8190).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        first.rename("a", "b").unwrap();
        assert_eq!(reader.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        first.remove("b").unwrap();
        assert!(reader.free_bytes().unwrap() > 0);
        drop(first);
        Folder::open(&path).unwrap();
    }
}
