package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"weft/internal/sqldb/pgtest"
	"weft/test/bench/load"
	"weft/test/bench/proc"
	"weft/test/bench/scenario"
	"weft/test/bench/server"
)

// targetSpec is a homeserver that is measured: one that runs already (--target), one that a command starts, or a Weft binary.
type targetSpec struct {
	name, url, serverName, secret, admin string
	federation                           string // HOST:PORT of its server–server API
	pid, dbPID                           int
	disk, db                             string
	command                              string // started by us
	weft, database                       string // binary, and "sqlite" or "postgres"
	nodes                                int    // processes of weft
}

// parseTarget reads the value of --target: pairs of key=value between commas.
func parseTarget(value string) (targetSpec, error) {
	var t targetSpec
	texts := map[string]*string{"name": &t.name, "url": &t.url, "server-name": &t.serverName, "secret": &t.secret,
		"admin": &t.admin, "federation": &t.federation, "disk": &t.disk, "db": &t.db}
	numbers := map[string]*int{"pid": &t.pid, "db-pid": &t.dbPID}
	for part := range strings.SplitSeq(value, ",") {
		key, value, ok := strings.Cut(part, "=")
		switch {
		case !ok:
			return t, fmt.Errorf("--target: %q is not of the form key=value", part)
		case texts[key] != nil:
			*texts[key] = value
		case numbers[key] != nil:
			n, err := strconv.Atoi(value)
			if err != nil || n <= 0 {
				return t, fmt.Errorf("--target: %s is no process ID: %q", key, value)
			}
			*numbers[key] = n
		default:
			return t, fmt.Errorf("--target: unknown key %q", key)
		}
	}
	u, err := url.Parse(t.url)
	if err != nil || u.Host == "" {
		return t, fmt.Errorf("--target: url is missing or no URL: %q", t.url)
	}
	if t.name == "" {
		t.name = u.Host
	}
	return t, nil
}

// specs lists what the command line asks for, with commands given to their targets.
func (o *options) specs() ([]targetSpec, error) {
	var out []targetSpec
	names := make(map[string]bool)
	for _, value := range o.targets {
		t, err := parseTarget(value)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, value := range o.commands {
		name, line, ok := strings.Cut(value, "=")
		found := false
		for i := range out {
			if out[i].name == name {
				out[i].command, found = line, true
			}
		}
		if !ok || !found {
			return nil, fmt.Errorf("--command wants NAME=COMMAND with the name of a --target: %q", value)
		}
	}
	wefts, err := o.weftSpecs()
	if err != nil {
		return nil, err
	}
	out = append(out, wefts...)
	for _, t := range out {
		if names[t.name] {
			return nil, fmt.Errorf("two targets are called %q", t.name)
		}
		names[t.name] = true
	}
	if len(out) == 0 {
		return nil, errors.New("nothing to measure: give --target or --weft")
	}
	return out, nil
}

// weftSpecs are the targets of --weft: each binary on each database.
func (o *options) weftSpecs() ([]targetSpec, error) {
	databases := []string{o.database}
	switch o.database {
	case "both":
		databases = []string{"sqlite", "postgres"}
	case "sqlite", "postgres":
	default:
		return nil, fmt.Errorf("--database is sqlite, postgres or both, not %q", o.database)
	}
	counts := o.nodes
	if len(counts) == 0 {
		counts = []int{1}
	} else if o.database != "postgres" {
		return nil, errors.New("--nodes wants --database postgres")
	}
	var out []targetSpec
	for _, value := range o.wefts {
		name, binary, named := strings.Cut(value, "=")
		if !named {
			binary = value
		}
		for _, database := range databases {
			for _, n := range counts {
				if n < 1 {
					return nil, fmt.Errorf("--nodes: %d", n)
				}
				t := targetSpec{name: database, weft: binary, database: database, nodes: n}
				if len(o.nodes) > 0 {
					t.name = fmt.Sprintf("nodes-%d", n)
				}
				if named {
					t.name = name + "-" + t.name
				}
				t.serverName = t.name + ".test"
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// running is a target with what was started for it.
type running struct {
	env       *scenario.Env
	processes []*server.Process // none: it ran already
	cluster   *pgtest.Cluster   // nil: it has none of ours
}

// open starts what is to be started and makes the target ready for scenarios.
func (o *options) open(ctx context.Context, spec targetSpec, run string) (_ *running, err error) {
	r := &running{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close(o))
		}
	}()
	if err := r.start(ctx, &spec, o); err != nil {
		return nil, err
	}
	t := &scenario.Target{Name: spec.name, URL: spec.url, ServerName: spec.serverName, Client: load.NewClient(spec.url),
		Secret: spec.secret, Admin: spec.admin, Embedded: spec.dbPID == 0 && spec.db == ""}
	pids := []int{spec.pid}
	for i, p := range r.processes {
		if i > 0 {
			t.Further, pids = append(t.Further, load.NewClient(p.URL)), append(pids, p.PID)
			t.FurtherAdmins = append(t.FurtherAdmins, p.Admin)
		}
	}
	if t.Server, err = tree(pids...); err != nil {
		return nil, err
	}
	if t.Database, err = tree(spec.dbPID); err != nil {
		return nil, err
	}
	switch {
	case spec.db != "":
		t.Disk = func(ctx context.Context) (int64, error) { return server.PostgresBytes(ctx, spec.db) }
	case spec.disk != "":
		t.Disk = func(ctx context.Context) (int64, error) { return server.SQLiteBytes(ctx, spec.disk) }
	}
	if o.authority != nil && spec.federation != "" {
		t.Federation = &scenario.Federation{Address: spec.federation, Authority: o.authority, Servers: o.servers}
	}
	r.env = scenario.NewEnv(t, o.sizes, run, o.log)
	r.env.ProfileDir = o.profileDir
	return r, nil
}

// start starts the spec's server and fills in where it is.
func (r *running) start(ctx context.Context, spec *targetSpec, o *options) (err error) {
	so := server.Options{Limits: proc.Limits{CPUs: o.cpus, Memory: int64(o.memory)}, Parent: o.cgroup, Authority: o.authority}
	if o.gomaxprocs > 0 {
		so.Env = []string{"GOMAXPROCS=" + strconv.Itoa(o.gomaxprocs)}
	}
	switch {
	case spec.command != "":
		err = r.add(server.StartCommand(ctx, spec.command, spec.name, spec.url, so))
	case spec.weft != "":
		if spec.database == "postgres" {
			if err := r.startCluster(spec); err != nil {
				return err
			}
		}
		// No balancer has to notice that they stop.
		so.Env = append(so.Env, "WEFT_SHUTDOWN_DELAY=0s")
		for i := range spec.nodes {
			name := spec.name
			if i > 0 {
				name += "-" + strconv.Itoa(i+1)
			}
			err = errors.Join(err, r.add(server.StartWeft(ctx, spec.weft, name, spec.serverName, spec.db, so)))
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	first := r.processes[0]
	spec.url = first.URL
	if spec.federation == "" {
		spec.federation = first.Federation
	}
	if spec.pid == 0 {
		spec.pid = first.PID
	}
	if spec.admin == "" {
		spec.admin = first.Admin
	}
	if spec.weft != "" && spec.db == "" {
		spec.disk = first.Folder
	}
	return nil
}

// add keeps a process that was started.
func (r *running) add(p *server.Process, err error) error {
	if err == nil {
		r.processes = append(r.processes, p)
	}
	return err
}

func (r *running) startCluster(spec *targetSpec) (err error) {
	if r.cluster, err = pgtest.Start(pgtest.Options{Durable: true}); err != nil {
		return err
	}
	spec.db = r.cluster.URL(url.Values{})
	spec.dbPID, err = r.cluster.PID()
	return err
}

// close ends what open started.
func (r *running) close(o *options) (err error) {
	var errs []error
	if r.env != nil {
		// After the server, which still talks to the synthetic ones.
		defer func() { err = errors.Join(err, r.env.Close()) }()
	}
	for _, p := range r.processes {
		log, err := p.Stop()
		errs = append(errs, err)
		if log != "" {
			_, err := fmt.Fprintf(o.log, "%s logged:\n%s\n", p.Name, log)
			errs = append(errs, err)
		}
	}
	if r.cluster != nil {
		errs = append(errs, r.cluster.Close())
	}
	return errors.Join(errs...)
}

// tree watches processes where that is possible.
func tree(pids ...int) (*proc.Tree, error) {
	if pids[0] == 0 {
		return nil, nil
	}
	t, err := proc.NewTree(pids...)
	if errors.Is(err, proc.ErrUnavailable) {
		return nil, nil
	}
	return t, err
}
