use super::*;

/// Nobody uses this identity for anything else.
const IDENTITY: &str = include_str!("../../../../fixtures/formats/sealed-v1/identity");

fn identity() -> AgeIdentity {
    AgeIdentity::parse(IDENTITY.lines().find(|line| line.starts_with("AGE-")).unwrap()).unwrap()
}

#[test]
fn a_key_is_read_as_it_is_written() {
    let one = identity();
    assert!(IDENTITY.contains(&one.secret_text()) && IDENTITY.contains(&one.recipient().to_string()));
    assert_eq!(Recipient::parse(&one.recipient().to_string()), Some(one.recipient()));
    assert!(!format!("{one:?}").contains("SECRET"), "{one:?}");
    let public = one.recipient().to_string();
    for text in ["", "age1", &public.to_uppercase(), &public.replace("age1", "agf1"), &one.secret_text()] {
        assert_eq!(Recipient::parse(text), None, "{text}");
    }
    for at in 4..public.len() {
        let mut changed = public.clone().into_bytes();
        changed[at] = if changed[at] == b'q' { b'p' } else { b'q' };
        assert_eq!(Recipient::parse(std::str::from_utf8(&changed).unwrap()), None, "{at}");
    }
    assert!(AgeIdentity::parse(&public).is_none());
}

/// The crate `age` 0.12.1 has opened these bytes.
#[test]
fn the_same_secrets_give_the_same_bytes() {
    let ephemeral = AgeIdentity(StaticSecret::from([7; 32]));
    let sealed =
        encrypt_with(b"written by backwhen", &identity().recipient(), &ephemeral, &[8; 16], &[9; 16])
            .unwrap();
    if std::env::var_os("BACKWHEN_TEST_WRITE_FIXTURES").is_some() {
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/formats/sealed-v1/by-backwhen.age");
        std::fs::write(place, &sealed).unwrap();
    }
    assert!(sealed == include_bytes!("../../../../fixtures/formats/sealed-v1/by-backwhen.age"));
    assert_eq!(decrypt(&sealed, &identity()).unwrap(), b"written by backwhen");
}

#[test]
fn nothing_else_opens() {
    let (one, other) = (identity(), AgeIdentity::random().unwrap());
    let sealed = encrypt(b"a short text", &one.recipient()).unwrap();
    assert_eq!(decrypt(&sealed, &one).unwrap(), b"a short text");
    assert_ne!(sealed, encrypt(b"a short text", &one.recipient()).unwrap(), "each has its own randomness");
    assert_eq!(decrypt(&sealed, &other), None);
    for at in 0..sealed.len() {
        for bit in [1, 0x20, 0x80] {
            let mut changed = sealed.clone();
            changed[at] ^= bit;
            assert_eq!(decrypt(&changed, &one), None, "byte {at}, bit {bit}");
        }
        assert_eq!(decrypt(&sealed[..at], &one), None, "cut at {at}");
    }
    assert_eq!(decrypt(&[&sealed[..], b"x"].concat(), &one), None);
    let nobody = Recipient(PublicKey::from([0; 32]));
    assert!(encrypt(b"x", &nobody).is_err(), "the secret in common with no person is known to everybody");
}

#[test]
fn a_wrapped_key_of_any_bytes() {
    let seeds = vec![
        include_bytes!("../../../../fixtures/formats/sealed-v1/by-backwhen.age").to_vec(),
        encrypt(b"a short text", &identity().recipient()).unwrap(),
    ];
    crate::hostile::throw("wrapped keys", seeds, |bytes| {
        format!("{:?}", decrypt(bytes, &identity()).is_some())
    });
}
