//! `require_auth`: the authentication methods that a server may ask for.

use crate::error::{Error, Result};

/// A method by which a server may have the client authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The server admits the client without asking for a proof.
    None,
    /// The client sends the password itself.
    Password,
    Md5,
    Scram,
    Gss,
    Sspi,
    OAuth,
}

/// Each method with its keyword, and with its name in messages.
const METHODS: &[(&str, Method, &str)] = &[
    ("none", Method::None, "no proof at all"),
    ("password", Method::Password, "the password in clear text"),
    ("md5", Method::Md5, "an MD5 digest of the password"),
    ("scram-sha-256", Method::Scram, "SCRAM-SHA-256"),
    ("gss", Method::Gss, "GSSAPI"),
    ("sspi", Method::Sspi, "SSPI"),
    ("oauth", Method::OAuth, "OAuth"),
];

/// The allowed methods; all methods, unless the connection string restricts them.
#[derive(Clone, Debug)]
pub struct RequireAuth {
    text: String,
    allowed: Vec<Method>,
}

impl RequireAuth {
    /// Reads a list as libpq does: the allowed methods, or, each after a `!`, the forbidden ones.
    ///
    /// # Errors
    /// Fails with usage if a method is unknown, named twice, or only some have a `!`.
    pub fn parse(text: Option<&str>) -> Result<RequireAuth> {
        let all = || METHODS.iter().map(|(_, method, _)| *method);
        let Some(text) = text else {
            return Ok(RequireAuth { text: String::new(), allowed: all().collect() });
        };
        let forbids = text.starts_with('!');
        let mut named = Vec::new();
        for item in text.split(',') {
            let word = item.strip_prefix('!');
            if word.is_some() != forbids {
                return Err(wrong(text, "put a ! before each method or before none"));
            }
            let word = word.unwrap_or(item);
            let method = METHODS.iter().find(|(known, _, _)| *known == word).map(|(_, method, _)| *method);
            let method = method.ok_or_else(|| wrong(text, "one of its methods is not known"))?;
            if named.contains(&method) {
                return Err(wrong(text, "a method is named twice"));
            }
            named.push(method);
        }
        let allowed = all().filter(|method| named.contains(method) != forbids).collect();
        Ok(RequireAuth { text: text.to_owned(), allowed })
    }

    /// Checks that the server may ask for this method.
    ///
    /// # Errors
    /// Fails with the message for the user if the method is not allowed.
    pub fn allow(&self, method: Method) -> Result<(), String> {
        if self.allowed.contains(&method) {
            return Ok(());
        }
        let asked = METHODS.iter().find(|(_, known, _)| *known == method).map_or("", |(_, _, name)| name);
        Err(format!(
            "the server wants {asked} for a login, which require_auth={} forbids; see that it is the right server, \
             and look at its pg_hba.conf",
            self.text
        ))
    }
}

fn wrong(text: &str, why: &str) -> Error {
    let words: Vec<_> = METHODS.iter().map(|(word, _, _)| *word).collect();
    Error::usage(format!("require_auth={text} cannot be read: {why}; the methods are {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Vec<Method> {
        RequireAuth::parse(Some(text)).unwrap().allowed
    }

    #[test]
    fn reads_a_list_of_what_may_be_and_one_of_what_may_not() {
        assert_eq!(RequireAuth::parse(None).unwrap().allowed.len(), METHODS.len());
        assert_eq!(allowed("scram-sha-256"), [Method::Scram]);
        assert_eq!(allowed("none,md5"), [Method::None, Method::Md5]);
        assert_eq!(allowed("!password,!md5,!gss,!sspi,!oauth"), [Method::None, Method::Scram]);
        assert!(!allowed("!none").contains(&Method::None));
    }

    #[test]
    fn a_list_that_libpq_would_not_take_is_refused() {
        for text in ["scram", "md5,!password", "!md5,password", "md5,md5", "md5, password", "md5,", "!"] {
            assert_eq!(
                RequireAuth::parse(Some(text)).unwrap_err().kind(),
                crate::error::Kind::Usage,
                "{text}"
            );
        }
    }
}
