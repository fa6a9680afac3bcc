package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/setup"
	"weft/test/bench/remote"
	"weft/test/bench/report"
	"weft/test/bench/scenario"
)

// options are the command line.
type options struct {
	targets, wefts, commands []string
	database                 string
	scenarios                []string
	rounds                   int
	profileDir               string
	cpus                     float64
	memory                   setup.Bytes
	cgroup                   string
	gomaxprocs               int
	nodes                    []int
	jsonFile, tableFile      string
	sizes                    scenario.Sizes
	authorityFolder          string
	servers                  int

	commandLine string
	out, log    io.Writer
	// authority signs the certificates of synthetic servers; nil when no scenario needs any.
	authority *remote.Authority
}

// run starts the targets, measures every scenario on each of them in turn, round by round, and reports.
func run(ctx context.Context, o options) (err error) {
	if err := o.sizes.Check(); err != nil {
		return err
	}
	scenarios, err := scenario.Select(o.scenarios)
	if err != nil {
		return err
	}
	specs, err := o.specs()
	if err != nil {
		return err
	}
	begun := time.Now()
	removeAuthority, err := o.openAuthority(scenarios)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAuthority()) }()
	var targets []*running
	defer func() {
		for _, r := range targets {
			err = errors.Join(err, r.close(&o))
		}
	}()
	doc := report.New(o.commandLine, begun)
	for _, spec := range specs {
		r, err := o.open(ctx, spec, strconv.FormatInt(begun.UnixMilli(), 36))
		if err != nil {
			return err
		}
		targets = append(targets, r)
		doc.AddTarget(spec.name)
	}
	o.measure(ctx, doc, scenarios, targets)
	for _, r := range targets {
		for _, p := range r.processes {
			if p.Cgroup == nil {
				continue
			}
			usage, err := p.Cgroup.Usage()
			if err != nil {
				return err
			}
			doc.AddUsage(r.env.Target.Name, usage)
		}
	}
	doc.Finish(time.Now())
	if err := o.write(doc); err != nil {
		return err
	}
	if doc.Errors() > 0 {
		return errChecks
	}
	return ctx.Err()
}

// openAuthority prepares what signs the certificates of synthetic servers, if a scenario needs any.
func (o *options) openAuthority(scenarios []scenario.Scenario) (remove func() error, err error) {
	remove = func() error { return nil }
	if !slices.ContainsFunc(scenarios, func(s scenario.Scenario) bool { return s.Federation }) {
		return remove, nil
	}
	folder := o.authorityFolder
	if folder == "" {
		if folder, err = os.MkdirTemp("", "weft-bench-ca-"); err != nil {
			return nil, err
		}
		remove = func() error { return os.RemoveAll(folder) }
	}
	if o.authority, err = remote.OpenAuthority(folder); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// measure runs the scenarios: A B, A B, … so that what disturbs the machine disturbs both.
func (o *options) measure(ctx context.Context, doc *report.Document, scenarios []scenario.Scenario, targets []*running) {
	for round := range o.rounds {
		for _, s := range scenarios {
			for _, r := range targets {
				if ctx.Err() != nil {
					return
				}
				if why := r.env.Lacks(s); why != "" {
					if round == 0 {
						doc.Skip(r.env.Target.Name, s.Name, why)
					}
					continue
				}
				err := s.Run(ctx, r.env)
				rows := r.env.TakeRows()
				if err != nil {
					row := scenario.NewRow(s.Name)
					row.Fail(err)
					rows = append(rows, row)
				}
				for _, row := range rows {
					doc.Add(r.env.Target.Name, row)
				}
			}
		}
	}
}

// write prints the table and writes the files.
func (o *options) write(doc *report.Document) error {
	if err := doc.Text(o.out); err != nil {
		return err
	}
	if o.jsonFile != "" {
		if err := toFile(o.jsonFile, doc.JSON); err != nil {
			return err
		}
	}
	if o.tableFile != "" {
		return toFile(o.tableFile, doc.Markdown)
	}
	return nil
}

func toFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// commandLine shows how the program was called, for the reports.
func commandLine(args []string) string {
	shown := []string{"go run ./test/bench"}
	for _, a := range args {
		if strings.ContainsAny(a, " \t'\"$*?&;|<>()") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		shown = append(shown, a)
	}
	return strings.Join(shown, " ")
}

func scenarioList() string {
	var b strings.Builder
	for _, s := range scenario.Table() {
		_, _ = fmt.Fprintf(&b, "  %-16s %s\n", s.Name, s.Doc) // memory takes everything
	}
	return b.String()
}
