//! The options of the commands that talk to a running program, and how they find it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;

use crate::base::error::{Error, Kind, Result};
use crate::base::text::printable;
use crate::platform::secret;
use crate::status::client::{Address, Client, Reply};
use crate::status::socket;

/// Which running program.
#[derive(Debug, Args, Clone)]
pub(super) struct Running {
    /// Where its status pages are: http://HOST:PORT or HOST:PORT (status.listen), or the path of its socket (status.socket). Without it
    /// the sockets of this device are tried.
    #[arg(long, value_name = "ADDRESS")]
    at: Option<String>,
    /// File with the token that the status pages want (status.token_file).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Running {
    /// A client of the running program.
    ///
    /// # Errors
    /// One line with the remedy: the address or the token's file is wrong, or no program is found.
    pub(super) fn connect(&self) -> Result<Client> {
        self.connect_to(socket::candidates())
    }

    /// As [`Self::connect`], with the sockets to try where no address is given.
    fn connect_to(&self, candidates: Vec<PathBuf>) -> Result<Client> {
        let token = self.token_file.as_deref().map(token).transpose()?;
        if let Some(text) = &self.at {
            return Ok(Client { address: Address::parse(text)?, token });
        }
        let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let mut client = Client { address: Address::Socket(PathBuf::new()), token };
        let mut failures = Vec::new();
        // A folder that may not be entered may have one: then its error is what helps.
        for path in candidates.into_iter().filter(|path| !matches!(path.try_exists(), Ok(false))) {
            client.address = Address::Socket(path);
            match client.probe() {
                Ok(()) => return Ok(client),
                Err(error) => failures.push(error.to_string()),
            }
        }
        let text = match &failures[..] {
            [] => format!(
                "flytrap is not running, or status.socket is elsewhere: there is no socket at {tried}: name the address with --at"
            ),
            failures => failures.join("; "),
        };
        Err(Error::fatal(Kind::System, text))
    }
}

/// The object on a page.
///
/// # Errors
/// One line: the program refuses it, or has no such page.
pub(super) fn object<T: DeserializeOwned>(client: &Client, reply: &Reply) -> Result<T> {
    let address = &client.address;
    if !(200..300).contains(&reply.status) {
        let why = String::from_utf8_lossy(&reply.body);
        let why = printable(why.lines().next().unwrap_or_default());
        let text = match reply.status {
            404 => format!(
                "{address} has no such page: this command and the running flytrap are of different versions"
            ),
            status => format!("{address} refuses it ({status}): {why}"),
        };
        return Err(Error::fatal(Kind::System, text));
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        let text =
            format!("the answer of {address} cannot be read: it is of another version, or not flytrap");
        Error::fatal(Kind::System, text).caused_by(error)
    })
}

fn token(path: &Path) -> Result<Vec<u8>> {
    secret::read_token("--token-file", path).map_err(|why| Error::fatal(Kind::Config, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_first_socket_on_which_something_listens_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [none, stale, live, later] =
            ["none", "stale", "live", "later"].map(|name| folder.path().join(name));
        drop(UnixListener::bind(&stale).unwrap());
        let _listeners = [&live, &later].map(|path| UnixListener::bind(path).unwrap());
        let running = Running { at: None, token_file: None };
        let client = running.connect_to(vec![none.clone(), stale.clone(), live.clone(), later]).unwrap();
        assert_eq!(client.address, Address::Socket(live));

        let line = running.connect_to(vec![none.clone()]).unwrap_err().to_string();
        let expected = format!("there is no socket at {}: name the address with --at", none.display());
        assert!(line.starts_with("flytrap is not running, or ") && line.ends_with(&expected), "{line}");
        let line = running.connect_to(vec![none, stale.clone()]).unwrap_err().to_string();
        assert!(line.contains(&format!("nothing listens at {}", stale.display())), "{line}");
    }

    #[test]
    fn an_address_and_a_token_are_taken_from_the_options() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let running = Running { at: Some("http://127.0.0.1:9464".into()), token_file: Some(file.clone()) };
        let line = running.connect_to(Vec::new()).unwrap_err().to_string();
        assert!(line.contains("--token-file") && line.contains("must exist"), "{line}");
        std::fs::write(&file, "s3cret\n").unwrap();
        let client = running.connect_to(Vec::new()).unwrap();
        assert_eq!(
            (client.address, client.token),
            (Address::Tcp("127.0.0.1:9464".into()), Some(b"s3cret".to_vec()))
        );
    }
}
