// Package report shows what was measured: a table for the terminal, the same in Markdown for docs/performance.md, and JSON with
// everything for programs.
package report
