package setup

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// valid gives the least configuration that is valid.
func valid() map[string][]string { return map[string][]string{"server-name": {"example.org"}} }

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "server_name: file.org\ndata_dir: /file\nlog: {level: debug}\nregistration:\n  mode: token\n  tokens: [a, b]\n")
	c, err := Load(Sources{
		File:    file,
		Environ: []string{"HOME=/x", "WEFT_DATA_DIR=/env", "WEFT_REGISTRATION_MODE=closed", "WEFT_VERIFY=1", "WEFT_TRUSTED_PROXIES=10.0.0.1, 10.1.0.0/16"},
		Flags:   map[string][]string{"registration": {"open"}, "rate-limits": {"false"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want string }{
		{"file beats default", c.Log.Level, "debug"},
		{"default stays beside file", c.Log.Format, "text"},
		{"environment beats file", c.DataDir, "/env"},
		{"flag beats environment", c.Registration.Mode, "open"},
		{"list from file", strings.Join(c.Registration.Tokens, " "), "a b"},
		{"list from environment", strings.Join(c.TrustedProxies, " "), "10.0.0.1 10.1.0.0/16"},
		{"database follows data_dir", filepath.ToSlash(c.databaseURL()), "sqlite:/env/weft.db"},
		{"name", c.ServerName, "file.org"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	if c.RateLimits.Enabled {
		t.Error("--rate-limits=false had no effect")
	}
}

func TestListenerSettings(t *testing.T) {
	file := writeFile(t, "listeners:\n- address: :1\n- address: :2\n  tls: {certificate: c, key: k}\n")
	tls := TLS{Certificate: "c", Key: "k"}
	for _, c := range []struct {
		name  string
		env   []string
		flags map[string][]string
		want  []Listener
		err   string
	}{
		{"file", nil, nil, []Listener{{Address: ":1"}, {Address: ":2", TLS: tls}}, ""},
		{"environment", []string{"WEFT_LISTEN=:3,:4"}, nil, []Listener{{Address: ":3"}, {Address: ":4"}}, ""},
		{"flags", []string{"WEFT_LISTEN=:3"}, map[string][]string{"listen": {":5"}, "listen-tls": {":6"}, "tls-cert": {"c"}, "tls-key": {"k"}},
			[]Listener{{Address: ":5"}, {Address: ":6", TLS: tls}}, ""},
		{"no certificate", nil, map[string][]string{"listen-tls": {":6"}}, nil, "--tls-cert"},
		{"a certificate for nothing", nil, map[string][]string{"tls-cert": {"c"}}, nil, "--listen-tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags := valid()
			for k, v := range c.flags {
				flags[k] = v
			}
			got, err := Load(Sources{File: file, Environ: c.env, Flags: flags})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want an error about %q", err, c.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got.Listeners, c.want) {
				t.Fatalf("got %+v %v, want %+v", got.Listeners, err, c.want)
			}
		})
	}
}

func TestWrongConfigurations(t *testing.T) {
	for _, c := range []struct{ name, yaml, env, want string }{
		{"unknown key", "server_nam: x", "", "server_nam"},
		{"unknown nested key", "log: {levl: x}", "", "levl"},
		{"wrong type", "max_requests: many", "", "many"},
		{"two documents", "log: {level: info}\n---\nlog: {level: debug}", "", "document"},
		{"no YAML", "\t:", "", "yaml"},
		{"unknown variable", "", "WEFT_SERVERNAME=x", "WEFT_SERVERNAME"},
		{"bad variable", "", "WEFT_MAX_REQUESTS=x", "max_requests"},
		{"bad boolean", "", "WEFT_RATE_LIMITS_ENABLED=perhaps", "neither true nor false"},
		{"bad duration", "shutdown_timeout: soon", "", "duration"},
		{"bad size", "media: {max_upload: big}", "", "size"},
		{"bad database", "database: mysql://x", "", "database:"},
		{"bad address", "listeners: [{address: nowhere}]", "", "listeners[0].address"},
		{"bad port", "listeners: [{address: ':99999'}]", "", "port"},
		{"half a TLS", "listeners: [{address: ':1', tls: {key: k}}]", "", "listeners[0].tls"},
		{"no listener", "listeners: []", "", "listeners"},
		{"bad admin address", "admin_listen: x", "", "admin_listen"},
		{"bad advertised address", "cluster: {advertise: 10.0.0.5}", "", `cluster.advertise: "10.0.0.5" is not HOST:PORT`},
		{"advertised address without a host", "cluster: {advertise: ':4222'}", "", "cluster.advertise"},
		{"advertised address without a port", "cluster: {http_advertise: 'weft.example:0'}", "", "cluster.http_advertise"},
		{"bad advertised HTTP address", "cluster: {http_advertise: 10.0.0.5}", "", "cluster.http_advertise"},
		{"long advertised address", "cluster: {advertise: '" + strings.Repeat("x", 300) + ":1'}", "", "cluster.advertise"},
		{"bad proxy", "trusted_proxies: [x]", "", "trusted_proxies"},
		{"bad component", "components: [dreamapi]", "", "dreamapi"},
		{"a component is missing", "components: [roomserver, mediaapi]", "", "syncapi can be left out with PostgreSQL only"},
		{"no component", "components: []", "", "there must be one"},
		{"bad mode", "registration: {mode: maybe}", "", "registration.mode"},
		{"bad room version", "rooms: {default_version: '99'}", "", "rooms.default_version"},
		{"bad notary", "federation: {trusted_notaries: ['a b']}", "", "trusted_notaries"},
		{"bad DNS server", "federation: {dns_servers: [x]}", "", "dns_servers"},
		{"bad well-known", "well_known: {client: matrix.org}", "", "well_known.client"},
		{"bad well-known server", "well_known: {server: 'https://x'}", "", "well_known.server"},
		{"bad contact", "well_known: {support_contact: nobody}", "", "support_contact"},
		{"bad level", "log: {level: loud}", "", "log.level"},
		{"bad format", "log: {format: xml}", "", "log.format"},
		{"no memory", "memory: 1M", "", "memory"},
		{"no requests", "max_requests: 0", "", "max_requests"},
		{"a long goodbye", "shutdown_delay: 1h", "", "shutdown_delay"},
		{"no tokens' life", "accounts: {access_token_lifetime: 0s}", "", "access_token_lifetime"},
		{"no uploads", "media: {max_upload: 0}", "", "max_upload"},
		{"media that is older than it is", "media: {remote_lifetime: -1h}", "", "remote_lifetime"},
		{"no rate", "rate_limits: {factor: 0}", "", "factor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(Sources{File: writeFile(t, c.yaml), Environ: []string{c.env}, Flags: valid()})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
	if _, err := Load(Sources{}); err == nil || !strings.Contains(err.Error(), "server_name") {
		t.Errorf("no server name: %v", err)
	}
	if _, err := Load(Sources{File: "does/not/exist"}); err == nil {
		t.Error("a missing file is no error")
	}
}

// What print shows of the defaults is read back as the same configuration, so
// every option is in it and every option can be read.
func TestPrintIsReadBack(t *testing.T) {
	want := Default()
	want.ServerName = "example.org"
	want.AdminListen = ":9"
	want.Listeners = append(want.Listeners, Listener{Address: ":8448", TLS: TLS{Certificate: "c", Key: "k"}})
	var out bytes.Buffer
	if err := want.Print(&out); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Sources{File: writeFile(t, out.String())})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := print(t, got), out.String(); a != b {
		t.Errorf("read back differently:\n%s\n%s", a, b)
	}
	for _, o := range Options() {
		leaf := o.Key[strings.LastIndexByte(o.Key, '.')+1:]
		if !strings.Contains(out.String(), leaf+":") {
			t.Errorf("%s is not shown", o.Key)
		}
	}
}

func print(t *testing.T, c Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSecretsAreHidden(t *testing.T) {
	c := Default()
	c.Database = "postgres://weft:s3cret@db/weft"
	c.Registration.SharedSecret = "s3cret"
	c.Registration.Tokens = []string{"s3cret"}
	c.TURN.Password, c.TURN.SharedSecret = "s3cret", "s3cret"
	if out := print(t, c); strings.Contains(out, "s3cret") || !strings.Contains(out, "postgres://weft:xxxxx@db/weft") {
		t.Errorf("printed:\n%s", out)
	}
	if c.Registration.Tokens[0] != "s3cret" {
		t.Error("printing changed the configuration")
	}
}

// Style rule 17: every option has a meaning, and there are fewer than 60.
func TestOptions(t *testing.T) {
	opts := Options()
	if len(opts) >= 60 {
		t.Errorf("%d options", len(opts))
	}
	flags := map[string]bool{}
	for _, o := range opts {
		if o.Doc == "" {
			t.Errorf("%s has no text", o.Key)
		}
		if o.Flag != "" && flags[o.Flag] {
			t.Errorf("flag --%s is taken twice", o.Flag)
		}
		flags[o.Flag] = true
	}
	t.Logf("%d options", len(opts))
}

// docs/config.md is what Reference writes.
func TestReferenceIsUpToDate(t *testing.T) {
	var want bytes.Buffer
	if err := Reference(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(got), "\r\n", "\n") != want.String() {
		t.Error("docs/config.md is out of date: run make docs")
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "5": 5, "1K": 1024, "50MiB": 50 << 20, "2 GB": 2 << 30, "7B": 7} {
		var n Bytes
		if err := n.UnmarshalText([]byte(text)); err != nil || int64(n) != want {
			t.Errorf("%s: %d %v", text, n, err)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(n.String())); err != nil || again != n {
			t.Errorf("%s: %s is read as %d, %v", text, n, again, err)
		}
	}
	for _, text := range []string{"", "-1", "1.5M", "99999999999G", "M"} {
		var n Bytes
		if err := n.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %d", text, n)
		}
	}
	for d, want := range map[time.Duration]string{time.Hour: "1h", 90 * time.Minute: "1h30m", 20 * time.Second: "20s", time.Minute: "1m", 0: "0s", 10 * time.Minute: "10m"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("server_name: x\nlisteners: [{address: ':1'}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := Default()
		if c.parse(data) == nil {
			_ = c.Validate()
		}
	})
}

func TestReplicasNeedPostgres(t *testing.T) {
	const pg = "postgres://weft:secret@db/weft"
	many := strings.Repeat(pg+",", 17)
	for _, c := range []struct{ name, database, replicas, want string }{
		{"one", pg, pg, ""},
		{"two", pg, pg + ", postgresql://other/weft", ""},
		{"SQLite", "sqlite:weft.db", pg, "database_replicas: needs PostgreSQL"},
		{"by default SQLite", "", pg, "database_replicas: needs PostgreSQL"},
		{"of SQLite", pg, "sqlite:weft.db", "database_replicas[0]: must be postgres://"},
		{"too many", pg, many, "database_replicas: 17 are more than 16"},
	} {
		cfg, err := Load(Sources{Environ: []string{"WEFT_DATABASE=" + c.database, "WEFT_DATABASE_REPLICAS=" + c.replicas}, Flags: valid()})
		if err == nil {
			err = cfg.Validate()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.want != "" {
			continue
		}
		var printed bytes.Buffer
		if err := cfg.Print(&printed); err != nil || strings.Contains(printed.String(), "secret@") {
			t.Errorf("%s: %v: %s", c.name, err, printed.String())
		}
	}
}
