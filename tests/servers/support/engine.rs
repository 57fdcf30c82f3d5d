//! What runs a server: programs on this machine, or a container.

use std::path::Path;
use std::process::Output;

use super::local::Local;
use super::programs::{Installation, installations};

/// How a server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Clients are cut off, the server writes its checkpoint: an orderly restart.
    Fast,
    /// No checkpoint, no goodbye: the next start is a crash recovery.
    Crash,
}

/// What a server is asked to be, before it is known what runs it.
#[derive(Clone, Debug)]
pub struct Wish {
    pub place: Place,
    pub settings: Vec<(String, String)>,
    pub encoding: String,
    /// Variables that the server finds in its environment.
    pub environment: Vec<(String, String)>,
    /// Host and port of the server whose standby it is to be.
    pub primary: Option<(String, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Local(Installation),
    Container { image: String },
}

impl Place {
    /// `BACKWHEN_TEST_PG`, else `major`, else the newest installation.
    pub fn choose(major: Option<u32>) -> Place {
        match std::env::var("BACKWHEN_TEST_PG").ok().filter(|text| !text.is_empty()) {
            Some(text) if major.is_none() => Place::parse(&text),
            _ => Place::installed(major),
        }
    }

    pub fn parse(text: &str) -> Place {
        if let Some(image) = text.strip_prefix("docker:") {
            return Place::Container { image: image.to_owned() };
        }
        if let Ok(major) = text.parse() {
            return Place::installed(Some(major));
        }
        let found = Installation::at(Path::new(text));
        Place::Local(found.unwrap_or_else(|| {
            panic!(
                "BACKWHEN_TEST_PG={text}: no major, no docker:IMAGE and no folder with postgres and initdb"
            )
        }))
    }

    fn installed(major: Option<u32>) -> Place {
        let mut all = installations().iter();
        let found = match major {
            None => all.next_back(),
            Some(major) => all.find(|installation| installation.major == major),
        };
        let asked = major.map_or("any PostgreSQL".to_owned(), |major| format!("PostgreSQL {major}"));
        Place::Local(
            found.cloned().unwrap_or_else(|| {
                panic!("{asked} is not on this machine: run scripts/setup.sh --all-versions")
            }),
        )
    }
}

pub enum Engine {
    Local(Local),
    #[cfg(feature = "docker-tests")]
    Container(Box<super::container::Container>),
}

impl Engine {
    pub fn start(wish: &Wish) -> Engine {
        match &wish.place {
            Place::Local(installation) => Engine::Local(Local::start(installation.clone(), wish)),
            #[cfg(feature = "docker-tests")]
            Place::Container { image } => {
                Engine::Container(Box::new(super::container::Container::start(image, wish)))
            }
            #[cfg(not(feature = "docker-tests"))]
            Place::Container { image } => {
                panic!("docker:{image} needs the feature: cargo test --features docker-tests")
            }
        }
    }

    /// Host and port as libpq takes them; the host is a socket's folder where there is one.
    pub fn address(&self) -> (String, u16) {
        match self {
            Engine::Local(local) => (local.socket_folder(), local.port()),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.address(),
        }
    }

    pub fn tcp_address(&self) -> (String, u16) {
        match self {
            Engine::Local(local) => ("127.0.0.1".to_owned(), local.port()),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.address(),
        }
    }

    /// Runs a client program against this server; `arguments` hold no address.
    pub fn client(&self, program: &str, database: &str, arguments: &[&str], input: &str) -> Output {
        match self {
            Engine::Local(local) => local.client(program, database, arguments, input),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.client(program, database, arguments, input),
        }
    }

    pub fn stop(&self, how: Stop) {
        match self {
            Engine::Local(local) => local.stop(how),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.stop(how),
        }
    }

    pub fn start_again(&self) {
        match self {
            Engine::Local(local) => local.start_again(),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.start_again(),
        }
    }

    /// Keeps a copy of the data, as a snapshot of the disk would; the server is stopped.
    pub fn keep_data(&self) {
        match self {
            Engine::Local(local) => local.keep_data(),
            #[cfg(feature = "docker-tests")]
            Engine::Container(_) => panic!("a container's data are out of reach"),
        }
    }

    /// Puts that copy in the place of the data; the server is stopped.
    pub fn on_data(&self, program: &str, arguments: &[&str]) {
        match self {
            Engine::Local(local) => local.on_data(program, arguments),
            #[cfg(feature = "docker-tests")]
            Engine::Container(_) => panic!("a container's data are out of reach"),
        }
    }

    pub fn bring_back_data(&self) {
        match self {
            Engine::Local(local) => local.bring_back_data(),
            #[cfg(feature = "docker-tests")]
            Engine::Container(_) => panic!("a container's data are out of reach"),
        }
    }

    /// The server's own log, for a test's message or to look something up as a user would.
    pub fn log(&self) -> String {
        match self {
            Engine::Local(local) => local.log(),
            #[cfg(feature = "docker-tests")]
            Engine::Container(container) => container.log(),
        }
    }

    /// The folder of client programs to hand to `backwhen`; `None` means those on `PATH`.
    pub fn bin(&self) -> Option<&Path> {
        match self {
            Engine::Local(local) => Some(&local.installation().bin),
            #[cfg(feature = "docker-tests")]
            Engine::Container(_) => None,
        }
    }
}
