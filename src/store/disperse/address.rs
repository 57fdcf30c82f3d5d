//! The address of any history: a bucket, or several stores that it is dispersed over.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Dispersed;
use super::code::Code;
use super::member::Member;
use super::policy::Policy;
use crate::error::{Error, Result};
use crate::store::remote::{Address, BlockCache, is_address};
use crate::store::{Folder, Store};

/// Begins the address of a history that is dispersed over several stores.
const SCHEME: &str = "disperse:";

/// More shards of one object than this are refused: each is a request for every object.
const MOST_STORES: usize = 32;

/// The address of a history that does not lie in one local folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    Bucket(Address),
    Dispersed(DispersedAddress),
}

impl StoreAddress {
    /// Whether a text names a bucket or a dispersal, and not a path.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME) || is_address(text)
    }

    /// Parses `s3://BUCKET/PREFIX` and the like, or `disperse:k=K,m=M,URL,…`.
    ///
    /// # Errors
    /// `Usage` if the text is none of these.
    pub fn parse(text: &str) -> Result<StoreAddress> {
        match text.strip_prefix(SCHEME) {
            Some(rest) => DispersedAddress::parse(rest).map(StoreAddress::Dispersed),
            None => Address::parse(text).map(StoreAddress::Bucket),
        }
    }

    /// The folder that a `file://` URL names; `None` if the text is no such URL.
    ///
    /// # Errors
    /// `Usage` if the URL names no folder of this machine.
    pub fn folder(text: &str) -> Result<Option<PathBuf>> {
        let Some(rest) = text.strip_prefix("file://") else { return Ok(None) };
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        if path.starts_with('/') && !path.contains(['%', '?', '#']) {
            return Ok(Some(path.into()));
        }
        Err(Error::usage(format!(
            "file://{rest} names no folder of this machine; write file:///PATH without escapes such as %20, or the plain path"
        )))
    }

    /// The local folders that objects lie in.
    pub fn folders(&self) -> Vec<&Path> {
        match self {
            StoreAddress::Bucket(_) => Vec::new(),
            StoreAddress::Dispersed(address) => {
                address.members.iter().filter_map(|it| it.as_folder()).map(PathBuf::as_path).collect()
            }
        }
    }

    /// Makes the store, without asking for anything yet. `scratch` is a local folder for objects that are being made, and
    /// `blocks` keeps what is read.
    ///
    /// # Errors
    /// `Usage` if a variable of a provider is wrong or missing.
    pub fn store(&self, scratch: &Path, blocks: Option<&Arc<BlockCache>>) -> Result<Arc<dyn Store>> {
        match self {
            StoreAddress::Bucket(address) => Ok(Arc::new(address.store(scratch, blocks.cloned())?)),
            StoreAddress::Dispersed(address) => {
                let member = |(number, member): (usize, &MemberAddress)| {
                    let (store, folder) = (member.store(scratch, blocks)?, member.as_folder().cloned());
                    Ok::<_, Error>(Arc::new(Member::new(number, member.to_string(), store, folder)))
                };
                let members = address.members.iter().enumerate().map(member).collect::<Result<_>>()?;
                let policy = Policy { code: address.code, tolerate: address.tolerate };
                Ok(Arc::new(Dispersed::new(policy, members, scratch)))
            }
        }
    }
}

/// The URL, as a person writes it.
impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreAddress::Bucket(address) => address.fmt(f),
            StoreAddress::Dispersed(address) => address.fmt(f),
        }
    }
}

/// `k` data shards and `m` more, each in a store of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispersedAddress {
    pub(super) code: Code,
    /// The number of stores that a put may lack.
    pub(super) tolerate: usize,
    pub(super) members: Vec<MemberAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MemberAddress {
    Bucket(Address),
    Folder(PathBuf),
}

impl MemberAddress {
    fn parse(text: &str) -> Result<MemberAddress> {
        match StoreAddress::folder(text)? {
            Some(folder) => Ok(MemberAddress::Folder(folder)),
            None => Address::parse(text).map(MemberAddress::Bucket),
        }
    }

    fn as_folder(&self) -> Option<&PathBuf> {
        match self {
            MemberAddress::Bucket(_) => None,
            MemberAddress::Folder(root) => Some(root),
        }
    }

    fn store(&self, scratch: &Path, blocks: Option<&Arc<BlockCache>>) -> Result<Arc<dyn Store>> {
        match self {
            MemberAddress::Bucket(address) => Ok(Arc::new(address.store(scratch, blocks.cloned())?)),
            MemberAddress::Folder(root) => Ok(Arc::new(Folder::new(root))),
        }
    }
}

impl fmt::Display for MemberAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberAddress::Bucket(address) => address.fmt(f),
            MemberAddress::Folder(root) => write!(f, "file://{}", root.display()),
        }
    }
}

impl DispersedAddress {
    fn parse(rest: &str) -> Result<DispersedAddress> {
        let wrong = |why: &str| {
            Error::usage(format!(
                "disperse:{rest} names no dispersed history: {why}; write disperse:k=4,m=2,URL,URL,… with k+m URLs, each \
                 s3://, gs://, az:// or file:///PATH"
            ))
        };
        let (mut k, mut m, mut tolerate, mut members) = (None, None, None, Vec::new());
        for part in rest.split(',') {
            let number =
                |text: &str| text.parse::<usize>().map_err(|_| wrong(&format!("{part} has no number")));
            match part.split_once('=').filter(|_| !part.contains("://")) {
                Some(("k", number_)) => k = Some(number(number_)?),
                Some(("m", number_)) => m = Some(number(number_)?),
                Some(("tolerate", number_)) => tolerate = Some(number(number_)?),
                Some((other, _)) => return Err(wrong(&format!("{other} is no setting"))),
                None => members.push(MemberAddress::parse(part)?),
            }
        }
        let (k, m) = (k.ok_or_else(|| wrong("k is missing"))?, m.ok_or_else(|| wrong("m is missing"))?);
        if k == 0 || m == 0 || k > MOST_STORES || m > MOST_STORES || k + m > MOST_STORES {
            return Err(wrong(&format!("k and m begin with 1, and k+m is at most {MOST_STORES}")));
        }
        if members.len() != k + m {
            return Err(wrong(&format!("k+m is {}, and {} URLs are named", k + m, members.len())));
        }
        let distinct: BTreeSet<_> = members.iter().map(ToString::to_string).collect();
        if distinct.len() != members.len() {
            return Err(wrong("two of the URLs are the same store"));
        }
        // With more, an object that a put has left out of so many stores could be in none of those that answer.
        let most = m.min(k - 1);
        let tolerate = tolerate.unwrap_or((m - 1).min(most));
        if tolerate > most {
            return Err(wrong(&format!("tolerate is at most {most}, the lesser of m and k-1")));
        }
        Ok(DispersedAddress { code: Code { k, m }, tolerate, members })
    }
}

impl fmt::Display for DispersedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Code { k, m } = self.code;
        write!(f, "{SCHEME}k={k},m={m}")?;
        if self.tolerate != (m - 1).min(k - 1) {
            write!(f, ",tolerate={}", self.tolerate)?;
        }
        self.members.iter().try_for_each(|member| write!(f, ",{member}"))
    }
}

/// Splits a list of addresses at its commas. The commas within the address of a dispersal part nothing: such an address
/// ends after as many URLs as its k and m say.
pub fn split_addresses(text: &str) -> Vec<&str> {
    let (mut found, mut begin, mut urls) = (Vec::new(), 0, None);
    let ends = text.match_indices(',').map(|(at, _)| at).chain([text.len()]);
    let (mut part_begin, mut wanted) = (0, 0);
    for end in ends {
        let part = &text[part_begin..end];
        if part_begin == begin && part.starts_with(SCHEME) {
            (urls, wanted) = (Some(0), 0);
        }
        let part = part.strip_prefix(SCHEME).unwrap_or(part);
        if let Some(count) = &mut urls {
            match part.split_once('=').filter(|_| !part.contains("://")) {
                Some(("k" | "m", number)) => wanted += number.parse::<usize>().unwrap_or(0),
                Some(_) => {}
                None => *count += 1,
            }
        }
        if urls.is_none_or(|count| count >= wanted.max(1)) {
            found.push(&text[begin..end]);
            (begin, urls) = (end + 1, None);
        }
        part_begin = end + 1;
    }
    if begin < text.len() {
        found.push(&text[begin..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_dispersed_address_is_read_as_it_is_written() {
        for (text, tolerate) in [
            ("disperse:k=2,m=1,s3://a/x,gs://b/x,file:///mnt/c", 0),
            ("disperse:k=2,m=2,s3://a/x,az://b/x,file:///mnt/c,s3://d", 1),
            ("disperse:k=2,m=2,tolerate=0,s3://a/x,az://b/x,file:///mnt/c,s3://d", 0),
            ("disperse:k=1,m=1,s3://a/x,s3://b/x", 0),
        ] {
            let StoreAddress::Dispersed(address) = StoreAddress::parse(text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!((address.to_string().as_str(), address.tolerate), (text, tolerate));
            assert!(StoreAddress::is_one(text));
        }
        for text in [
            "disperse:",
            "disperse:k=2,m=1,s3://a/x,s3://b/x",
            "disperse:k=2,m=1,s3://a/x,s3://b/x,s3://c/x,s3://d/x",
            "disperse:k=2,m=1,s3://a/x,s3://b/x,s3://a/x/",
            "disperse:k=2,m=1,s3://a/x,s3://b/x,/mnt/c",
            "disperse:k=0,m=1,s3://a/x",
            "disperse:k=1,m=0,s3://a/x",
            "disperse:k=2,m=1,tolerate=2,s3://a/x,s3://b/x,s3://c/x",
            "disperse:k=two,m=1,s3://a/x,s3://b/x,s3://c/x",
            "disperse:k=2,m=1,n=3,s3://a/x,s3://b/x,s3://c/x",
        ] {
            assert_eq!(StoreAddress::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn commas_within_a_dispersal_part_no_addresses() {
        let dispersed = "disperse:k=1,m=1,s3://a/x,s3://b/x";
        assert_eq!(split_addresses("s3://a,gs://b"), ["s3://a", "gs://b"]);
        assert_eq!(split_addresses(dispersed), [dispersed]);
        let list = format!("s3://z,{dispersed},gs://y");
        assert_eq!(split_addresses(&list), ["s3://z", dispersed, "gs://y"]);
        assert_eq!(split_addresses("disperse:k=1,m=1,s3://a/x"), ["disperse:k=1,m=1,s3://a/x"]);
    }

    #[test]
    fn a_file_url_names_a_folder_of_this_machine() {
        for text in ["file:///srv/history", "file://localhost/srv/history"] {
            assert_eq!(StoreAddress::folder(text).unwrap().unwrap(), Path::new("/srv/history"), "{text}");
        }
        for text in ["file://", "file://srv/history", "file://localhostx/a", "file:///a%20b", "file:///a?b"] {
            assert_eq!(StoreAddress::folder(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
