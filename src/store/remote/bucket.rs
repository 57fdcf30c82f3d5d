//! Requests to an object store. Each blocks until it is answered, and is tried again by the client for as long as its
//! limits allow.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, PutResult, UpdateVersion,
};

use crate::ambient;
use crate::error::{Error, Kind, Result, one_line};

/// The metadata that tells whose put an object is of. An answer may be lost on its way: the client then tries again,
/// and is told that the name is taken, by itself.
const PUT_ID: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("backwhenput"));

/// The stores take no longer keys.
const LONGEST_KEY: usize = 1024;

/// The address at which a machine in a cloud finds its own credentials. The crate asks there if the user names none.
const METADATA_SERVICE: &str = "169.254.169.254";

/// The keys under one prefix of a bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Stands before each key; empty, or with a slash at the end.
    prefix: String,
    /// The URL of the prefix, for messages.
    url: String,
}

/// A stored object, as a listing tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub size: u64,
    pub put: DateTime<Utc>,
}

impl From<ObjectMeta> for Stored {
    fn from(it: ObjectMeta) -> Stored {
        Stored { size: it.size, put: it.last_modified }
    }
}

impl Bucket {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str, url: &str) -> Bucket {
        let prefix = prefix.trim_matches('/');
        let parting = if prefix.is_empty() { "" } else { "/" };
        Bucket { store, prefix: format!("{prefix}{parting}"), url: url.trim_end_matches('/').to_owned() }
    }

    pub(super) fn locate(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    /// The path of a key; `None` if no store can hold such a key.
    fn path(&self, key: &str) -> Option<Path> {
        let path = Path::from_iter(format!("{}{key}", self.prefix).split('/'));
        (path.as_ref().len() <= LONGEST_KEY).then_some(path)
    }

    /// Tells an object's size and age; `None` if there is no such object.
    pub(super) fn head(&self, key: &str) -> Result<Option<Stored>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let store = Arc::clone(&self.store);
        let found = self.ask("HEAD", key, async move { store.head(&path).await })?;
        Ok(found.map(Stored::from))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.get_version(key)?.map(|(bytes, _)| bytes))
    }

    /// Reads an object, with the version that [`Bucket::update`] replaces.
    pub(super) fn get_version(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let store = Arc::clone(&self.store);
        self.ask("GET", key, async move {
            let found = store.get(&path).await?;
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok((found.bytes().await?, version))
        })
    }

    /// Reads an object, with the time at which it was put by the store's clock.
    pub(super) fn get_dated(&self, key: &str) -> Result<Option<(Bytes, DateTime<Utc>)>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let store = Arc::clone(&self.store);
        self.ask("GET", key, async move {
            let found = store.get(&path).await?;
            let put = found.meta.last_modified;
            Ok((found.bytes().await?, put))
        })
    }

    pub(super) fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let store = Arc::clone(&self.store);
        self.ask("GET", key, async move { store.get_range(&path, range).await })
    }

    /// Lists the keys below `folder`, which ends with a slash, without the folder itself.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<(String, Stored)>> {
        let prefix = format!("{}{folder}", self.prefix);
        let (store, path) = (Arc::clone(&self.store), Path::from(prefix.as_str()));
        let listed =
            self.ask("LIST", folder, async move { store.list(Some(&path)).try_collect::<Vec<_>>().await });
        let keys = listed?.unwrap_or_default().into_iter().filter_map(|it| {
            let file = it.location.as_ref().strip_prefix(&prefix)?;
            Some((decoded(file)?, Stored::from(it)))
        });
        Ok(keys.collect())
    }

    /// Stores an object under a free key.
    ///
    /// # Errors
    /// `Internal` if the key is taken.
    pub(super) fn create(&self, key: &str, payload: PutPayload) -> Result<()> {
        let id = format!("{:032x}", u128::from_be_bytes(ambient::random()?));
        let attributes = Attributes::from_iter([(PUT_ID, AttributeValue::from(id.clone()))]);
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.put(key, payload, options) {
            Err(error) if error.kind() == Kind::Internal && self.is_of_put(key, &id)? => Ok(()),
            put => put.map(drop),
        }
    }

    /// Replaces the version that was read of an object, and returns the new version; `None` if another one has taken its place.
    pub(super) fn update(
        &self,
        key: &str,
        payload: Vec<u8>,
        version: UpdateVersion,
    ) -> Result<Option<UpdateVersion>> {
        let options = PutOptions { mode: PutMode::Update(version), ..PutOptions::default() };
        match self.put(key, payload.into(), options) {
            Err(error) if error.kind() == Kind::Internal => Ok(None),
            put => put.map(|it| Some(UpdateVersion { e_tag: it.e_tag, version: it.version })),
        }
    }

    pub(super) fn overwrite(&self, key: &str, payload: Vec<u8>) -> Result<()> {
        self.put(key, payload.into(), PutOptions::default()).map(drop)
    }

    fn put(&self, key: &str, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path =
            self.path(key).ok_or_else(|| Error::unavailable(format!("{} is too long", self.locate(key))))?;
        let store = Arc::clone(&self.store);
        let put = self.ask("PUT", key, async move { store.put_opts(&path, payload, options).await })?;
        put.ok_or_else(|| Error::refused(format!("there is no bucket for {}; make it first", self.url)))
    }

    fn is_of_put(&self, key: &str, id: &str) -> Result<bool> {
        let Some(path) = self.path(key) else { return Ok(false) };
        let store = Arc::clone(&self.store);
        let options = GetOptions::new().with_head(true);
        let found = self.ask("HEAD", key, async move { store.get_opts(&path, options).await })?;
        Ok(found.is_some_and(|it| it.attributes.get(&PUT_ID).is_some_and(|found| found.as_ref() == id)))
    }

    /// Removes an object; one that is gone already is no error.
    pub(super) fn delete(&self, key: &str) -> Result<()> {
        let Some(path) = self.path(key) else { return Ok(()) };
        let store = Arc::clone(&self.store);
        self.ask("DELETE", key, async move { store.delete(&path).await }).map(drop)
    }

    /// Removes many objects, a thousand with one request where the store can do that. Objects that are gone already are no
    /// error.
    pub(super) fn delete_many(&self, keys: Vec<String>) -> Result<()> {
        let paths: Vec<_> = keys.iter().filter_map(|key| self.path(key)).map(Ok).collect();
        let (store, first) = (Arc::clone(&self.store), keys.first().map_or("", String::as_str));
        self.ask("DELETE", first, async move {
            let removed = store.delete_stream(futures_util::stream::iter(paths).boxed());
            let gone = |error: &object_store::Error| matches!(error, object_store::Error::NotFound { .. });
            removed
                .filter(|removed| std::future::ready(!removed.as_ref().is_err_and(gone)))
                .try_for_each(|_| std::future::ready(Ok(())))
                .await
        })
        .map(drop)
    }

    /// Copies an object within the store; false if it is not there.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<bool> {
        let (Some(source), Some(target)) = (self.path(from), self.path(to)) else { return Ok(false) };
        let store = Arc::clone(&self.store);
        Ok(self.ask("COPY", from, async move { store.copy(&source, &target).await })?.is_some())
    }

    /// Sends a request; `None` if the object is not there.
    fn ask<T: Send + 'static>(
        &self,
        verb: &str,
        key: &str,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        tracing::trace!("request {verb} {key}");
        match ambient::answer(request)? {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            answer => answer.map(Some).map_err(|error| self.failed(verb, key, error)),
        }
    }

    fn failed(&self, verb: &str, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as Fault;
        let place = self.locate(key);
        // The text of such an error holds those of its causes.
        let cause = one_line(&error.to_string());
        match error {
            Fault::AlreadyExists { .. } | Fault::Precondition { .. } => {
                Error::internal(format!("{place} exists already; objects are written once"))
            }
            Fault::PermissionDenied { .. } | Fault::Unauthenticated { .. } => {
                refused(verb, place).caused_by(cause)
            }
            _ if cause.contains(METADATA_SERVICE) => Error::usage(format!(
                "no credentials are named for {}, and this machine has none of its own; set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or see docs/stores.md",
                self.url
            ))
            .caused_by(cause),
            _ => Error::unavailable(format!("{verb} of {place} failed; try again later")).caused_by(cause),
        }
    }
}

fn refused(verb: &str, place: impl Display) -> Error {
    Error::refused(format!(
        "the object store refuses {verb} of {place}; give these credentials the right, or name others (AWS_ACCESS_KEY_ID \
         and AWS_SECRET_ACCESS_KEY for s3://)"
    ))
}

/// The text of a key whose odd characters a [`Path`] has written as `%41`; `None` if that is no text.
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}
