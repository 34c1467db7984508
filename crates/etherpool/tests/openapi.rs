//! What the program says of its API is an OpenAPI 3.1 document.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// What the OpenAPI Initiative says of such documents (Apache-2.0), as it publishes it: all but what schemas are.
const OPENAPI: &str = include_str!("openapi-3.1.json");

#[test]
fn the_document_is_openapi_and_its_schemas_are_schemas() {
    let output = Command::new(env!("CARGO_BIN_EXE_etherpool")).arg("openapi").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rules: Value = serde_json::from_str(OPENAPI).unwrap();
    let openapi = jsonschema::draft202012::new(&rules).unwrap();
    let faults = |document: &Value| -> Vec<String> {
        let said =
            |fault: jsonschema::ValidationError<'_>| format!("{}: {fault}", fault.instance_path());
        openapi.iter_errors(document).map(said).collect()
    };
    let found = faults(&document);
    assert!(found.is_empty(), "{found:#?}");
    let mut broken = document.clone();
    broken["paths"]["/v2/status"]["get"]["sumary"] = "misspelt".into();
    assert!(!faults(&broken).is_empty());

    let paths = document["paths"].as_object().unwrap().values();
    let operations: Vec<&Value> =
        paths.flat_map(|path| path.as_object().unwrap().values()).collect();
    let ids: BTreeSet<&str> =
        operations.iter().map(|one| one["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations.len(), "{ids:?}");
    // Programs that were made of it call them so.
    for id in
        ["get_status", "get_pools", "get_pool", "get_pool_boot_copies", "post_pool_volume_mount"]
    {
        assert!(ids.contains(id), "{id}: {ids:?}");
    }

    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        jsonschema::draft202012::meta::validate(schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // What is referred to is there, and what is there is referred to.
    let text = document.to_string();
    let referred = text.split("\"#/components/schemas/").skip(1);
    let referred: BTreeSet<&str> = referred.map(|rest| rest.split('"').next().unwrap()).collect();
    let present: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(referred, present);
    assert!(!text.contains("#/asked/") && !text.contains("[`"));
}
