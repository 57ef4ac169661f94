//! The part of a rustls verifier that is the same whomever it trusts.

/// Inside an `impl` of either verifier trait: checks handshake signatures with all algorithms of the provider.
macro_rules! signatures_of_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = super::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, leaf, signed, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = super::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, leaf, signed, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            super::provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

pub(super) use signatures_of_provider;
