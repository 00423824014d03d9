//! Certificates, signed by an authority that exists for one test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Signs certificates; whoever is given [`Authority::path`] trusts them.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    pub path: PathBuf,
}

/// The files of a certificate (PEM).
#[derive(Clone, Debug)]
pub struct Certificate {
    pub path: PathBuf,
    /// For its owner only.
    pub key: PathBuf,
}

impl Authority {
    /// An authority whose files are `<name>…` in a directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        // Two authorities of one name would be taken for each other.
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("sign a certificate");
        let path = dir.join(format!("{name}.pem"));
        fs::write(&path, issuer.pem()).expect("write a certificate");
        Self {
            issuer,
            dir: dir.to_owned(),
            path,
        }
    }

    /// A certificate for this machine's loopback addresses, good for servers and clients.
    pub fn issue(&self, name: &str) -> Certificate {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let key = KeyPair::generate().expect("make a key");
        let signed = CertificateParams::new(names)
            .and_then(|parameters| parameters.signed_by(&key, &self.issuer))
            .expect("sign a certificate");
        let files = Certificate {
            path: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&files.path, signed.pem()).expect("write a certificate");
        fs::write(&files.key, key.serialize_pem()).expect("write a key");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("hide a key");
        files
    }
}
