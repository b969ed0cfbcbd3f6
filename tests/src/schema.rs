//! A check against the schema that `oomtrace schema` prints: as much of JSON Schema as that
//! schema uses. A keyword it does not know is an error, so nothing is passed over in silence.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Env, tracer};

/// The schema of the records.
#[derive(Clone, Debug)]
pub struct Schema(Value);

impl Schema {
    /// Asks the program.
    ///
    /// # Errors
    /// When it does not print JSON.
    pub fn of(env: &Env) -> Result<Self> {
        let output = tracer::run(env, &["schema"])?;
        ensure!(
            output.status.success(),
            "oomtrace schema ended with {}",
            output.status
        );
        Ok(Self(
            serde_json::from_slice(&output.stdout).context("what oomtrace schema prints")?,
        ))
    }

    /// Asks the program for the schema of what another verb writes.
    ///
    /// # Errors
    /// When it does not print JSON.
    pub fn of_verb(env: &Env, verb: &str) -> Result<Self> {
        let output = tracer::run(env, &["schema", "--of", verb])?;
        ensure!(
            output.status.success(),
            "oomtrace schema --of {verb} ended with {}",
            output.status
        );
        let schema = serde_json::from_slice(&output.stdout);
        Ok(Self(schema.context("what oomtrace schema prints")?))
    }

    /// Checks what a verb writes, and that every field of it is named.
    ///
    /// # Errors
    /// When it does not conform, or has another field.
    pub fn describes(&self, object: &Value) -> Result<()> {
        self.check(object)?;
        self.named(&self.0, object, "object")
    }

    /// Checks a record.
    ///
    /// # Errors
    /// When it does not conform; the message says where and why.
    pub fn check(&self, record: &Value) -> Result<()> {
        self.conforms(&self.0, record, "record")
    }

    fn conforms(&self, schema: &Value, value: &Value, at: &str) -> Result<()> {
        let keywords = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(keywords) => keywords,
            other => bail!("{at}: the schema is {other}"),
        };
        for (keyword, wanted) in keywords {
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "format" | "default" => {}
                "$ref" => {
                    let name = wanted
                        .as_str()
                        .and_then(|name| name.strip_prefix("#/$defs/"));
                    let target = &self.0["$defs"][name.context("an unknown $ref")?];
                    self.conforms(target, value, at)?;
                }
                "type" => {
                    let one = [wanted.clone()];
                    let types = wanted.as_array().map_or(&one[..], Vec::as_slice);
                    let fits = types.iter().any(|wanted| is_a(value, wanted.as_str()));
                    ensure!(fits, "{at} is {value}, not {wanted}");
                }
                "const" => ensure!(value == wanted, "{at} is {value}, not {wanted}"),
                "enum" => {
                    let known = wanted.as_array().is_some_and(|list| list.contains(value));
                    ensure!(known, "{at} is {value}, none of {wanted}");
                }
                "minimum" => ensure!(
                    value.as_f64() >= wanted.as_f64() || !value.is_number(),
                    "{at} is {value}, below {wanted}"
                ),
                "maximum" => ensure!(
                    value.as_f64() <= wanted.as_f64() || !value.is_number(),
                    "{at} is {value}, above {wanted}"
                ),
                "required" => {
                    for name in wanted
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                    {
                        let absent = value.is_object() && value.get(name).is_none();
                        ensure!(!absent, "{at} has no {name}");
                    }
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().into_iter().flatten() {
                        if let Some(inner) = value.get(name) {
                            self.conforms(schema, inner, &format!("{at}.{name}"))?;
                        }
                    }
                }
                "additionalProperties" => {
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        let listed = keywords
                            .get("properties")
                            .is_some_and(|list| list.get(name).is_some());
                        if !listed {
                            self.conforms(wanted, inner, &format!("{at}.{name}"))?;
                        }
                    }
                }
                "items" => {
                    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
                        self.conforms(wanted, inner, &format!("{at}[{index}]"))?;
                    }
                }
                "anyOf" | "oneOf" | "allOf" => {
                    let list = wanted.as_array().context("no list of schemas")?;
                    let refusals: Vec<String> = list
                        .iter()
                        .filter_map(|schema| self.conforms(schema, value, at).err())
                        .map(|error| error.to_string())
                        .collect();
                    let fitting = list.len() - refusals.len();
                    let enough = match keyword.as_str() {
                        "anyOf" => fitting >= 1,
                        "oneOf" => fitting == 1,
                        _ => refusals.is_empty(),
                    };
                    ensure!(
                        enough,
                        "{at}: {fitting} of {keyword} fit: {}",
                        refusals.join("; ")
                    );
                }
                unknown => bail!("{at}: the schema uses {unknown:?}, which is not checked here"),
            }
        }
        Ok(())
    }

    /// Every field of a record is one the schema names: a field that is written and not documented
    /// is found here.
    ///
    /// # Errors
    /// When it has another one.
    pub fn names_every_field(&self, record: &Value) -> Result<()> {
        let kind = &record["kind"];
        let variant = self.0["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|variant| variant["properties"]["kind"]["const"] == *kind)
            .with_context(|| format!("the schema has no kind {kind}"))?;
        let mut record = record.clone();
        if let Some(fields) = record.as_object_mut() {
            fields.remove("kind");
        }
        self.named(variant, &record, "record")
    }

    fn named(&self, schema: &Value, value: &Value, at: &str) -> Result<()> {
        let schema = self.resolved(schema);
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let known = match schema["properties"].get(name) {
                        Some(known) => known,
                        None if schema["additionalProperties"].is_object() => {
                            &schema["additionalProperties"]
                        }
                        None => bail!("{at}.{name} is not in the schema"),
                    };
                    self.named(known, inner, &format!("{at}.{name}"))?;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.named(&schema["items"], item, at)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Follows references, and the one alternative that is not null.
    fn resolved<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        loop {
            let name = schema["$ref"]
                .as_str()
                .and_then(|name| name.strip_prefix("#/$defs/"));
            let other = schema["anyOf"]
                .as_array()
                .and_then(|list| list.iter().find(|schema| schema["type"] != "null"));
            schema = match (name, other) {
                (Some(name), _) => &self.0["$defs"][name],
                (None, Some(other)) => other,
                (None, None) => return schema,
            };
        }
    }
}

fn is_a(value: &Value, name: Option<&str>) -> bool {
    match name {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
