package main

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		value string
		want  targetSpec
		fail  string
	}{
		{"url=http://127.0.0.1:8008", targetSpec{name: "127.0.0.1:8008", url: "http://127.0.0.1:8008"}, ""},
		{"name=a,url=https://h:1,pid=12,db-pid=34,disk=/d,secret=s,server-name=n,admin=http://h:2,federation=h:8448",
			targetSpec{name: "a", url: "https://h:1", pid: 12, dbPID: 34, disk: "/d", secret: "s", serverName: "n", admin: "http://h:2", federation: "h:8448"}, ""},
		{"url=http://h,db=postgres://u@/d?host=/tmp", targetSpec{name: "h", url: "http://h", db: "postgres://u@/d?host=/tmp"}, ""},
		{"name=a", targetSpec{}, "url is missing"},
		{"url=127.0.0.1:8008", targetSpec{}, "no URL"},
		{"url=http://h,pid=x", targetSpec{}, "no process ID"},
		{"url=http://h,pid=-1", targetSpec{}, "no process ID"},
		{"url=http://h,port=1", targetSpec{}, `unknown key "port"`},
		{"http://h", targetSpec{}, "key=value"},
	} {
		got, err := parseTarget(c.value)
		switch {
		case c.fail == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v", c.value, got, err)
		case c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)):
			t.Errorf("%s: %v instead of %q", c.value, err, c.fail)
		}
	}
}

func TestSpecs(t *testing.T) {
	for _, c := range []struct {
		o    options
		want string // names; or part of the error after "!"
	}{
		{options{wefts: []string{"./weft"}, database: "both"}, "sqlite postgres"},
		{options{wefts: []string{"old=./a", "new=./b"}, database: "sqlite"}, "old-sqlite new-sqlite"},
		{options{targets: []string{"name=x,url=http://h"}, wefts: []string{"./weft"}, database: "postgres"}, "x postgres"},
		{options{targets: []string{"name=x,url=http://h"}, commands: []string{"x=exec ./server --a=b"}, database: "sqlite"}, "x:exec ./server --a=b"},
		{options{commands: []string{"x=exec ./server"}, database: "sqlite"}, "!--command"},
		{options{targets: []string{"name=x,url=http://h", "name=x,url=http://i"}, database: "sqlite"}, "!two targets"},
		{options{wefts: []string{"./weft"}, database: "mysql"}, "!--database"},
		{options{wefts: []string{"./weft", "old=./a"}, database: "postgres", nodes: []int{1, 4}}, "nodes-1 nodes-4 old-nodes-1 old-nodes-4"},
		{options{wefts: []string{"./weft"}, database: "sqlite", nodes: []int{1, 4}}, "!--nodes"},
		{options{wefts: []string{"./weft"}, database: "postgres", nodes: []int{0}}, "!--nodes"},
		{options{database: "sqlite"}, "!nothing to measure"},
	} {
		specs, err := c.o.specs()
		if want, fail := strings.CutPrefix(c.want, "!"); fail {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v instead of %q", err, want)
			}
			continue
		}
		var names []string
		for _, s := range specs {
			name := s.name
			if s.command != "" {
				name += ":" + s.command
			}
			names = append(names, name)
		}
		if got := strings.Join(names, " "); err != nil || got != c.want {
			t.Errorf("%q instead of %q, %v", got, c.want, err)
		}
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"--weft", "./weft", "--command", "a=exec it's"})
	if want := `go run ./test/bench --weft ./weft --command 'a=exec it'\''s'`; got != want {
		t.Errorf("%s instead of %s", got, want)
	}
}

func TestFlags(t *testing.T) {
	cmd := command()
	if err := cmd.ParseFlags([]string{"--memory", "1GiB", "--cpus", "1", "--scenario", "send,join", "--target", "url=http://h,db=x"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory": "1GiB", "cpus": "1", "scenario": "[send,join]"} {
		if got := cmd.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %q", name, got)
		}
	}
	if err := cmd.ParseFlags([]string{"--memory", "much"}); err == nil {
		t.Error("--memory much was taken")
	}
	if !strings.Contains(cmd.Long, "fanout") {
		t.Error("the help does not list the scenarios")
	}
}
