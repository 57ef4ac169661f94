//! The OpenAPI document, generated from the handlers; `docs/reference/openapi.json` is its copy, held by a test.

use axum::Json;
use utoipa::OpenApi;

use crate::web::{lists, login, mfa, users};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Mezite",
        description = "REST API of the proxy. Bearer session tokens, or the cookie mezite_session."
    ),
    paths(
        login::ping,
        login::login,
        login::redeem_invite,
        login::logout,
        login::who_am_i,
        login::issue_certs,
        login::change_password,
        mfa::list,
        mfa::begin,
        mfa::finish,
        mfa::remove,
        lists::nodes,
        lists::sessions,
        lists::recording,
        lists::users,
        users::create,
        lists::roles,
        lists::audit,
    )
)]
struct Document;

/// Serves the document.
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::tests::ROUTES;

    #[test]
    fn reference_openapi_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");
        let text = Document::openapi().to_pretty_json().unwrap() + "\n";
        if option_env!("MEZITE_UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap_or_default() == text, "run `make docs`");
    }

    #[test]
    fn every_route_is_in_the_document() {
        let json = serde_json::to_value(Document::openapi()).unwrap();
        for (method, path, _) in ROUTES.iter().filter(|(_, path, _)| !path.ends_with("openapi.json")) {
            assert!(!json["paths"][*path][method.to_lowercase()].is_null(), "{method} {path}");
        }
    }
}
