//! What a channel is opened for (RFC 4254 sections 6.1 and 7.2, OpenSSH PROTOCOL section 2.4).

use crate::{
    config::IDENT_PREFIX,
    transport::Role,
    wire::{Reader, WireError, put_string, put_u32, put_utf8},
};

/// Purpose of a channel. Names come from the peer: they are valid UTF-8 and nothing else is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelOpen {
    /// `session`
    Session,
    /// `direct-tcpip`: the server is asked to connect to `host:port`.
    DirectTcpip {
        /// Where to connect.
        host: String,
        /// Port to connect to.
        port: u16,
        /// Where the client says the stream comes from.
        origin_host: String,
        /// Its port.
        origin_port: u16,
    },
    /// `forwarded-tcpip`: somebody connected to a port the client asked the server to listen on.
    ForwardedTcpip {
        /// The address as it was asked for.
        host: String,
        /// The port connected to.
        port: u16,
        /// Who connected.
        origin_host: String,
        /// Its port.
        origin_port: u16,
    },
    /// `direct-streamlocal@openssh.com`: the server is asked to connect to a Unix socket.
    DirectStreamlocal {
        /// Path of the socket.
        path: String,
    },
    /// `forwarded-streamlocal@openssh.com`: somebody connected to a socket the client asked for.
    ForwardedStreamlocal {
        /// The path as it was asked for.
        path: String,
    },
    /// `auth-agent@openssh.com`: a way to the client's key agent.
    Agent,
}

impl ChannelOpen {
    /// The channel type on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::DirectTcpip { .. } => "direct-tcpip",
            Self::ForwardedTcpip { .. } => "forwarded-tcpip",
            Self::DirectStreamlocal { .. } => "direct-streamlocal@openssh.com",
            Self::ForwardedStreamlocal { .. } => "forwarded-streamlocal@openssh.com",
            Self::Agent => "auth-agent@openssh.com",
        }
    }

    /// The role that may open such a channel.
    pub(crate) fn opener(&self) -> Role {
        match self {
            Self::Session | Self::DirectTcpip { .. } | Self::DirectStreamlocal { .. } => Role::Client,
            Self::ForwardedTcpip { .. } | Self::ForwardedStreamlocal { .. } | Self::Agent => Role::Server,
        }
    }

    /// Reads the part of SSH_MSG_CHANNEL_OPEN that belongs to the type; `None` if the type is unknown.
    pub(crate) fn read(name: &[u8], reader: &mut Reader<'_>) -> Result<Option<Self>, WireError> {
        Ok(Some(match name {
            b"session" => Self::Session,
            b"direct-tcpip" => {
                let (host, port, origin_host, origin_port) = read_tcpip(reader)?;
                Self::DirectTcpip { host, port, origin_host, origin_port }
            }
            b"forwarded-tcpip" => {
                let (host, port, origin_host, origin_port) = read_tcpip(reader)?;
                Self::ForwardedTcpip { host, port, origin_host, origin_port }
            }
            b"direct-streamlocal@openssh.com" => {
                let path = reader.utf8()?.to_owned();
                reader.string()?;
                reader.u32()?;
                Self::DirectStreamlocal { path }
            }
            b"forwarded-streamlocal@openssh.com" => {
                let path = reader.utf8()?.to_owned();
                reader.string()?;
                Self::ForwardedStreamlocal { path }
            }
            b"auth-agent@openssh.com" => Self::Agent,
            _ => return Ok(None),
        }))
    }

    /// Appends the part of SSH_MSG_CHANNEL_OPEN that belongs to the type.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Session | Self::Agent => {}
            Self::DirectTcpip { host, port, origin_host, origin_port }
            | Self::ForwardedTcpip { host, port, origin_host, origin_port } => {
                put_utf8(out, host);
                put_u32(out, u32::from(*port));
                put_utf8(out, origin_host);
                put_u32(out, u32::from(*origin_port));
            }
            Self::DirectStreamlocal { path } => {
                put_utf8(out, path);
                put_string(out, b"");
                put_u32(out, 0);
            }
            Self::ForwardedStreamlocal { path } => {
                put_utf8(out, path);
                put_string(out, b"");
            }
        }
    }
}

fn read_tcpip(reader: &mut Reader<'_>) -> Result<(String, u16, String, u16), WireError> {
    let host = reader.utf8()?.to_owned();
    let port = read_port(reader)?;
    let origin_host = reader.utf8()?.to_owned();
    Ok((host, port, origin_host, read_port(reader)?))
}

fn read_port(reader: &mut Reader<'_>) -> Result<u16, WireError> {
    u16::try_from(reader.u32()?).map_err(|_| WireError::BadNumber)
}

/// Why an open request is refused (RFC 4254 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFailure {
    /// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
    AdministrativelyProhibited,
    /// SSH_OPEN_CONNECT_FAILED
    ConnectFailed,
    /// SSH_OPEN_UNKNOWN_CHANNEL_TYPE
    UnknownChannelType,
    /// SSH_OPEN_RESOURCE_SHORTAGE
    ResourceShortage,
}

impl OpenFailure {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::AdministrativelyProhibited => 1,
            Self::ConnectFailed => 2,
            Self::UnknownChannelType => 3,
            Self::ResourceShortage => 4,
        }
    }

    /// Codes outside of the RFC count as a failed connection.
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            1 => Self::AdministrativelyProhibited,
            3 => Self::UnknownChannelType,
            4 => Self::ResourceShortage,
            _ => Self::ConnectFailed,
        }
    }
}

/// Whether a peer with this identification line runs this engine.
pub(crate) fn is_own(ident: &str) -> bool {
    ident.starts_with(IDENT_PREFIX)
}
