//! The URL of a history in an object store, and the way there.
//!
//! Where and as whom requests are sent is told by the variables that other programs of each provider read too, such as
//! `AWS_ACCESS_KEY_ID`, `AWS_REGION` and `AWS_ENDPOINT_URL`; see docs/stores.md.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::Remote;
use super::blocks::BlockCache;
use super::bucket::{Bucket, longest_pause};
use super::lease::LeaseTerms;
use super::profile::Profile;
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};

/// A request is tried again this often, after pauses that grow and are drawn by chance.
const RETRIES: usize = 6;

/// The pause before a request is tried again for the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Each further pause is drawn between the first one and this many times the one before, so it is about twice as long.
/// The pauses of one request are ten seconds together on average; with 2, the client's own value, they would be 1.5 s.
const GROWTH: f64 = 4.;

/// One try of a request takes at most this long. A put of the largest pack on a slow line is to end within it.
const TIMEOUT: &str = "600 seconds";

/// A server that does not take a connection within this time is not there.
const CONNECT_TIMEOUT: &str = "10 seconds";

/// A bucket or container, and the prefix of a history in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    provider: Provider,
    bucket: String,
    prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    S3,
    Google,
    Azure,
}

/// Whether a text names a place in an object store, and not a path.
pub fn is_address(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
}

impl Address {
    /// Parses `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    ///
    /// # Errors
    /// `Usage` if it is none of these.
    pub fn parse(text: &str) -> Result<Address> {
        let wrong = || {
            Error::usage(format!(
                "{text} names no history; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a folder"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let provider = match scheme {
            "s3" => Provider::S3,
            "gs" => Provider::Google,
            "az" => Provider::Azure,
            _ => return Err(wrong()),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = !bucket.is_empty() && prefix.split('/').all(|part| part != "." && part != "..");
        let prefix = prefix.trim_matches('/');
        if is_plain && !rest.contains(['?', '#', '%', '\\']) {
            Ok(Address { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        } else {
            Err(wrong())
        }
    }

    /// Makes the store, without asking for anything yet. `scratch` is a local folder for objects that are being made, and
    /// `blocks` keeps what is read.
    ///
    /// # Errors
    /// `Usage` if a variable of the provider is wrong or missing.
    pub fn store(&self, scratch: &Path, blocks: Option<Arc<BlockCache>>) -> Result<Remote> {
        // Whichever part of the process was first has chosen the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("{}://{}", self.scheme(), self.bucket);
        let store: object_store::Result<Arc<dyn ObjectStore>> = match self.provider {
            Provider::S3 => {
                let profile = Profile::chosen(|name| std::env::var(name).ok())?;
                amazon(&url, &profile).map(|it| Arc::new(it) as _)
            }
            Provider::Google => google(&url).map(|it| Arc::new(it) as _),
            Provider::Azure => azure(&url).map(|it| Arc::new(it) as _),
        };
        let store = store
            .context(Kind::Usage, || format!("cannot use {self}; see docs/stores.md for its variables"))?;
        let bucket = Bucket::new(store, &self.prefix, &self.to_string());
        Ok(Remote::new(bucket, scratch.to_owned(), blocks, LeaseTerms::usual()))
    }

    fn scheme(&self) -> &'static str {
        match self.provider {
            Provider::S3 => "s3",
            Provider::Google => "gs",
            Provider::Azure => "az",
        }
    }
}

/// The URL, as a person writes it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parting = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}://{}{parting}{}", self.scheme(), self.bucket, self.prefix)
    }
}

fn retries() -> RetryConfig {
    let longest = longest_pause();
    let init_backoff = FIRST_PAUSE.min(longest / 2);
    let backoff = BackoffConfig { init_backoff, max_backoff: longest, base: GROWTH };
    let max_retries = ambient::test_number("BACKWHEN_TEST_RETRIES").map_or(RETRIES, |it| it as usize);
    RetryConfig { backoff, max_retries, ..RetryConfig::default() }
}

/// Lets a client go without TLS.
const ALLOW_HTTP: (ClientConfigKey, &str) = (ClientConfigKey::AllowHttp, "true");

/// The settings of the client of each provider.
fn limits() -> [(ClientConfigKey, &'static str); 2] {
    [(ClientConfigKey::Timeout, TIMEOUT), (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT)]
}

fn amazon(url: &str, profile: &Profile) -> object_store::Result<impl ObjectStore> {
    use object_store::aws::AmazonS3ConfigKey::{AccessKeyId, Client, Region, SecretAccessKey, Token};
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retries());
    builder = limits().into_iter().fold(builder, |it, (key, value)| it.with_config(Client(key), value));
    // The environment overrides the profile, as it does for the AWS command line. Keys are taken together.
    if let (Some(keys), None) = (&profile.keys, variable("AWS_ACCESS_KEY_ID")) {
        builder = builder.with_config(AccessKeyId, &keys.id).with_config(SecretAccessKey, &keys.secret);
        builder = keys.token.iter().fold(builder, |it, token| it.with_config(Token, token));
    }
    if let (Some(region), None) =
        (&profile.region, variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")))
    {
        builder = builder.with_config(Region, region);
    }
    let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = endpoints.into_iter().find_map(variable);
    if let (Some(endpoint), None) = (&profile.endpoint, &endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    // A person who names an endpoint by http:// wants it.
    let is_plain =
        endpoint.as_ref().or(profile.endpoint.as_ref()).is_some_and(|it| it.starts_with("http://"));
    if is_plain { builder.with_allow_http(true) } else { builder }.build()
}

fn google(url: &str) -> object_store::Result<impl ObjectStore> {
    google_with(GoogleCloudStorageBuilder::from_env(), url)
}

fn google_with(builder: GoogleCloudStorageBuilder, url: &str) -> object_store::Result<impl ObjectStore> {
    use object_store::gcp::GoogleConfigKey::{BaseUrl, Client};
    let is_plain = is_plain(builder.get_config_value(&BaseUrl));
    let builder = builder.with_url(url).with_retry(retries());
    let limits = limits().into_iter().chain(is_plain.then_some(ALLOW_HTTP));
    limits.fold(builder, |it, (key, value)| it.with_config(Client(key), value)).build()
}

fn azure(url: &str) -> object_store::Result<impl ObjectStore> {
    azure_with(MicrosoftAzureBuilder::from_env(), url)
}

fn azure_with(builder: MicrosoftAzureBuilder, url: &str) -> object_store::Result<impl ObjectStore> {
    use object_store::azure::AzureConfigKey::{Client, Endpoint};
    let is_plain = is_plain(builder.get_config_value(&Endpoint));
    let builder = builder.with_url(url).with_retry(retries());
    let limits = limits().into_iter().chain(is_plain.then_some(ALLOW_HTTP));
    limits.fold(builder, |it, (key, value)| it.with_config(Client(key), value)).build()
}

/// Whether a person has named an endpoint without TLS, and so wants it.
fn is_plain(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|it| it.starts_with("http://"))
}

/// The bucket that these variables lead to, which are passed by hand as a test may not change its environment.
#[cfg(test)]
pub(super) fn bucket_of_a_test(variables: &[(String, String)], url: &str) -> Bucket {
    use object_store::aws::AmazonS3ConfigKey::Client;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address = Address::parse(url).unwrap();
    let variables = || variables.iter().map(|(name, value)| (name.to_lowercase(), value));
    let store: Arc<dyn ObjectStore> = match address.provider {
        Provider::S3 => {
            let builder = AmazonS3Builder::new().with_url(url).with_retry(retries());
            let builder = builder.with_config(Client(ALLOW_HTTP.0), ALLOW_HTTP.1);
            let set = |it: AmazonS3Builder, (name, value): (String, &String)| {
                it.with_config(name.parse().unwrap(), value)
            };
            Arc::new(variables().fold(builder, set).build().unwrap())
        }
        Provider::Google => {
            let set = |it: GoogleCloudStorageBuilder, (name, value): (String, &String)| {
                it.with_config(name.parse().unwrap(), value)
            };
            let builder = variables().fold(GoogleCloudStorageBuilder::new(), set);
            Arc::new(google_with(builder, url).unwrap())
        }
        Provider::Azure => {
            let set = |it: MicrosoftAzureBuilder, (name, value): (String, &String)| {
                it.with_config(name.parse().unwrap(), value)
            };
            let builder = variables().fold(MicrosoftAzureBuilder::new(), set);
            Arc::new(azure_with(builder, url).unwrap())
        }
    };
    Bucket::new(store, &address.prefix, url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (text, same) in [
            ("s3://backups/shop", "s3://backups/shop"),
            ("s3://backups", "s3://backups"),
            ("gs://backups/a/b/", "gs://backups/a/b"),
            ("az://backups@account/shop", "az://backups@account/shop"),
        ] {
            assert!(is_address(text));
            assert_eq!(Address::parse(text).unwrap().to_string(), same);
        }
        for text in ["s3://", "s3:///shop", "ftp://a/b", "s3://a/../b", "s3://a/b?region=x", "https://a.b/c"]
        {
            assert_eq!(Address::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
        assert!(!is_address("/srv/history") && !is_address("file:///srv/history"));
    }
}
