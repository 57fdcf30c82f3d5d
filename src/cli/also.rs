//! The options that name the standing copies of a capture.

use clap::Args;

use super::Surroundings;
use super::secrecy::EncryptionOptions;
use crate::capture::live::Durability;
use crate::error::{Error, Result};
use crate::history::HistoryPlace;
use crate::store::split_addresses;

/// The copies that a capture keeps up to date, and whether they decide what is confirmed.
#[derive(Args, Clone)]
pub(super) struct CopyOptions {
    /// Also keep a copy up to date in an object store, s3://BUCKET/PREFIX, gs:// or az://, or in several of them,
    /// disperse:k=K,m=M,URL,…; may be given several times
    #[arg(long, env = "BACKWHEN_ALSO", value_name = "URL")]
    also: Vec<String>,
    /// Confirm to the source what is on this machine's disk (`local`), or only what the first copy has too (`store`); until
    /// then the source retains its WAL
    #[arg(long, env = "BACKWHEN_DURABLE", value_name = "WHERE", default_value = "local", value_parser = parse_durability)]
    pub(super) durable: Durability,
    #[command(flatten)]
    encryption: EncryptionOptions,
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "local" => Ok(Durability::Local),
        "store" => Ok(Durability::Store),
        _ => Err("write local or store".to_owned()),
    }
}

impl CopyOptions {
    /// The places of the copies.
    ///
    /// # Errors
    /// `Usage` if one is no object store, or if none is named although a copy is to decide.
    pub(super) fn places(&self, at: &Surroundings) -> Result<Vec<HistoryPlace>> {
        if self.also.is_empty() && self.durable == Durability::Store {
            return Err(Error::usage(
                "--durable store confirms what a copy has, and none is named; name one with --also s3://BUCKET/PREFIX",
            ));
        }
        let urls = self.also.iter().flat_map(|urls| split_addresses(urls));
        let places = urls.map(|url| at.place_of_copy(url, &self.encryption)).collect::<Result<Vec<_>>>()?;
        match places.iter().find(|place| !place.is_remote()) {
            Some(folder) => Err(Error::usage(format!(
                "--also keeps copies in object stores, and {folder} is a folder; write s3://BUCKET/PREFIX, or bring the folder \
                 up to date now and then with: backwhen copy --to {folder}"
            ))),
            None => Ok(places),
        }
    }
}
