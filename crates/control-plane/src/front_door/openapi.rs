//! The OpenAPI document, made from the table of operations.

use std::collections::BTreeSet;

use serde_json::json;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
    ResponseBuilder, Schema, SecurityRequirement,
};

use super::{Access, Operation, Protocol, Router};

/// The document of all operations.
pub fn document(router: &Router) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new().security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .build(),
        ),
    );
    for operation in router.operations() {
        for schema in operation.request_schema.iter().chain(
            operation
                .answers
                .iter()
                .filter_map(|(_, schema)| schema.as_ref()),
        ) {
            for (name, schema) in schema() {
                components = components.schema(name, schema);
            }
        }
        paths = paths.path(
            operation.path.clone(),
            PathItem::new(method(operation), describe(operation)),
        );
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Wharfinger control plane")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Resource groups, container registries, their credentials and role assignments, compatible with Azure Resource Manager; the part of Microsoft Graph behind `az ad sp`; sign-in.",
                )),
        )
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

fn method(operation: &Operation) -> HttpMethod {
    match operation.method.as_str() {
        "PUT" => HttpMethod::Put,
        "POST" => HttpMethod::Post,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        "HEAD" => HttpMethod::Head,
        _ => HttpMethod::Get,
    }
}

fn describe(operation: &Operation) -> utoipa::openapi::path::Operation {
    let mut builder = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .summary(Some(operation.summary))
        .extensions(Some(
            ExtensionsBuilder::new()
                .add("x-wharfinger-access", access(operation.access))
                .build(),
        ));
    for name in parameters(&operation.path) {
        builder = builder.parameter(parameter(name, ParameterIn::Path, Required::True, &[]));
    }
    if !operation.versions.is_empty() {
        builder = builder.parameter(parameter(
            "api-version",
            ParameterIn::Query,
            Required::True,
            operation.versions,
        ));
    }
    for name in operation.query {
        builder = builder.parameter(parameter(name, ParameterIn::Query, Required::False, &[]));
    }
    if let Some(schema) = &operation.request_schema {
        let media_type = match operation.protocol {
            Protocol::OAuth => "application/x-www-form-urlencoded",
            _ => "application/json",
        };
        let content = ContentBuilder::new().schema(reference(schema)).build();
        builder = builder.request_body(Some(
            RequestBodyBuilder::new()
                .content(media_type, content)
                .required(Some(Required::True))
                .build(),
        ));
    }
    for (status, schema) in &operation.answers {
        let mut response = ResponseBuilder::new().description(match status {
            201 => "Created",
            204 => "No content",
            _ => "Success",
        });
        if let Some(schema) = schema {
            let content = ContentBuilder::new().schema(reference(schema)).build();
            response = response.content("application/json", content);
        }
        builder = builder.response(status.to_string(), response.build());
    }
    if !matches!(operation.access, Access::Public) {
        builder = builder.security(SecurityRequirement::new("bearer", Vec::<String>::new()));
    }
    builder.build()
}

/// A reference to the first of the schemas.
fn reference(schemas: impl Fn() -> Vec<(String, RefOr<Schema>)>) -> Option<Ref> {
    let (name, _) = schemas().into_iter().next()?;
    Some(Ref::from_schema_name(name))
}

fn parameter(
    name: &str,
    place: ParameterIn,
    required: Required,
    values: &[&str],
) -> utoipa::openapi::path::Parameter {
    let mut schema = ObjectBuilder::new().schema_type(Type::String);
    if !values.is_empty() {
        schema = schema.enum_values(Some(values.iter().copied()));
    }
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(schema))
        .build()
}

fn parameters(path: &str) -> BTreeSet<&str> {
    path.split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .collect()
}

/// The declared access, as the access walk reads it back from the document.
fn access(access: Access) -> serde_json::Value {
    match access {
        Access::Public => json!({ "kind": "public" }),
        Access::AnyPrincipal => json!({ "kind": "anyPrincipal" }),
        Access::FilteredList(action) => json!({ "kind": "filteredList", "action": action }),
        Access::Directory(right) => json!({ "kind": "directory", "right": format!("{right:?}") }),
        Access::Action { action, scope } => {
            json!({ "kind": "action", "action": action, "scope": format!("{scope:?}") })
        }
        Access::Node => json!({ "kind": "node" }),
    }
}
