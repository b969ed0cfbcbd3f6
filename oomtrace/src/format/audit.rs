//! The findings of `oomtrace audit`, as text.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::{
    WIDTH,
    draw::{NOT_WHOLE, heading, silent, wrapped},
    pretty::{BOLD, DIM, Paint, WARN, shown, time_of_day},
};
use crate::{
    audit::{Audit, Finding, LookedAt, Numbers, Severity, Subject},
    explain::amount,
    report::count,
};

const ALARM: Style = AnsiColor::Red.on_default().bold();
/// Cells of a bar.
const BAR: u64 = 40;

/// The findings, a paragraph each.
pub fn audit(audit: &Audit, width: usize, color: bool) -> String {
    let width = width.clamp(*WIDTH.start(), *WIDTH.end());
    let paint = Paint { color };
    let node = &audit.node;
    let name = node.k8s_node_name.as_ref().or(node.hostname.as_ref());
    let name = name.map_or_else(String::new, |name| format!(" ── node {}", shown(name)));
    let date = audit.time.get(..10).unwrap_or_default();
    let clock = time_of_day(&audit.time);
    let clock = clock.get(..8).unwrap_or(clock);
    let mut text = heading(&format!("audit ── {date} {clock} UTC{name}"), width, paint);
    text.push('\n');
    for finding in &audit.findings {
        paragraph(&mut text, finding, width, paint);
    }
    if audit.whole_node == Some(false) {
        wrapped(&mut text, width, "", "", NOT_WHOLE);
        text.push('\n');
    }
    for note in silent(audit.kubernetes.as_ref()) {
        wrapped(&mut text, width, "", "", &note);
        text.push('\n');
    }
    for check in &audit.not_checked {
        let code = code(&check.code);
        let line = format!("not checked: {code}: {}", check.reason);
        wrapped(&mut text, width, "", "  ", &line);
    }
    if !audit.not_checked.is_empty() {
        text.push('\n');
    }
    wrapped(&mut text, width, "", "", &totals(audit));
    text
}

fn paragraph(text: &mut String, finding: &Finding, width: usize, paint: Paint) {
    let Finding {
        code: kind,
        severity,
        subject,
        numbers,
        summary,
        why,
        advice,
    } = finding;
    let severity = match severity {
        Severity::Critical => paint.on(ALARM, "CRITICAL"),
        Severity::Warning => paint.on(WARN, "WARNING "),
    };
    let code = code(kind);
    let _ = writeln!(text, "{severity}  {}", paint.on(BOLD, code));
    for (label, value) in whose(subject) {
        let label = paint.on(DIM, format_args!("{label:<10}"));
        let _ = writeln!(text, "  {label}{value}");
    }
    if let Some(bar) = bar(numbers) {
        let label = paint.on(DIM, format_args!("{:<10}", "limit"));
        let _ = writeln!(text, "  {label}{bar}");
    }
    for (label, value) in [("found", summary.as_str()), ("why", why), ("do", advice)] {
        let start = text.len();
        let first = format!("  {label:<10}");
        wrapped(text, width, &first, &" ".repeat(first.len()), value);
        if paint.color {
            let painted = paint.on(DIM, &first);
            text.replace_range(start..start + first.len(), &painted);
        }
    }
    text.push('\n');
}

/// The code as in JSON.
fn code(code: &crate::audit::Code) -> String {
    use clap::ValueEnum;
    code.to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

fn whose(subject: &Subject) -> Vec<(&'static str, String)> {
    let Subject {
        pod_uid,
        pod,
        container_id,
        container,
        cgroup,
        pid,
        comm,
    } = subject;
    let mut lines = Vec::new();
    let mut line = |label, value: &str| {
        lines.push((label, shown(value).to_string()));
    };
    if let Some(pod) = pod.as_ref().or(pod_uid.as_ref()) {
        line("pod", pod);
    }
    let short = container_id.as_ref().and_then(|id| id.get(..12));
    if let Some(container) = container.as_deref().or(short) {
        line("container", container);
    }
    if let (Some(pid), Some(comm)) = (pid, comm) {
        line("process", &format!("{comm} (pid {pid})"));
    }
    if let Some(cgroup) = cgroup {
        line("cgroup", cgroup);
    }
    lines
}

/// How full a limit is: the working set, file pages that can go first, and what is left.
fn bar(numbers: &Numbers) -> Option<String> {
    let limit = u128::from(numbers.limit_bytes.filter(|limit| *limit > 0)?);
    let cells = |bytes: u64| (u128::from(bytes) * u128::from(BAR) / limit).min(BAR.into());
    let working_set = cells(numbers.working_set_bytes?);
    let usage = cells(numbers.usage_bytes?).max(working_set);
    let bar: String = (0..u128::from(BAR))
        .map(|cell| match cell {
            cell if cell < working_set => '█',
            cell if cell < usage => '▒',
            _ => '·',
        })
        .collect();
    let left = u64::try_from(limit)
        .ok()?
        .saturating_sub(numbers.working_set_bytes?);
    let percent = numbers.percent?;
    Some(format!("{bar} {percent} %, {} left", amount(left)))
}

fn totals(audit: &Audit) -> String {
    let LookedAt {
        cgroups,
        pods,
        containers,
        processes,
    } = audit.looked_at;
    let of = |severity| {
        let findings = audit.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let found = match audit.findings.len() {
        0 => "Nothing found.".to_owned(),
        _ => format!(
            "{} critical, {}.",
            of(Severity::Critical),
            count(of(Severity::Warning) as u64, "warning")
        ),
    };
    format!(
        "{found} Looked at {} in {}, of {} and {}.",
        count(processes.into(), "process"),
        count(cgroups.into(), "cgroup"),
        count(containers.into(), "container"),
        count(pods.into(), "pod"),
    )
}
