package setup

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"weft/internal/sqldb/sqldbtest"
)

// testConfig is a server on free ports in a folder of its own.
func testConfig(t *testing.T, name string) Config {
	c := Default()
	c.ServerName = name
	c.DataDir = t.TempDir()
	c.Listeners = []Listener{{Address: "127.0.0.1:0"}}
	c.AdminListen = "127.0.0.1:0"
	c.Registration.Mode = "open"
	c.RateLimits.Enabled = false
	c.Memory = 256 * mib
	return c
}

// boot runs a server until the test ends or stop is called.
func boot(t *testing.T, c Config) (s *Server, stop func()) {
	t.Helper()
	return bootWith(t, c, RunOptions{Log: quiet().Logger, Version: "test", Verify: true})
}

func bootWith(t *testing.T, c Config, o RunOptions) (s *Server, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Run(ctx, c, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := s.Wait(); err != nil {
			t.Errorf("%s stopped with %v", c.ServerName, err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func call(t *testing.T, method, url, token, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%s %s: %d %q", method, url, res.StatusCode, data)
	}
	return res.StatusCode, got
}

func register(t *testing.T, base, name string) (token string) {
	t.Helper()
	status, got := call(t, "POST", base+"/_matrix/client/v3/register", "",
		`{"auth":{"type":"m.login.dummy"},"username":"`+name+`","password":"wonderland-7"}`)
	if status != 200 {
		t.Fatalf("register: %d %v", status, got)
	}
	return got["access_token"].(string)
}

func TestServerOnBothDatabases(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		c := testConfig(t, "one.test")
		c.Database = newURL()
		s, stop := boot(t, c)
		token := register(t, s.URLs()[0], "alice")
		if status, got := call(t, "GET", s.URLs()[0]+"/_matrix/client/v3/account/whoami", token, ""); status != 200 || got["user_id"] != "@alice:one.test" {
			t.Errorf("whoami: %d %v", status, got)
		}
		if status, got := call(t, "GET", s.AdminURL()+"/health", "", ""); status != 200 || got["status"] != "ok" {
			t.Errorf("health: %d %v", status, got)
		}
		stop()
		s, _ = boot(t, c)
		if status, got := call(t, "GET", s.URLs()[0]+"/_matrix/client/v3/account/whoami", token, ""); status != 200 {
			t.Errorf("the session did not survive a restart: %d %v", status, got)
		}
	})
}

// Style rule 18: many servers live in one process and know nothing of each other.
func TestManyServersInOneProcess(t *testing.T) {
	for _, name := range []string{"a.test", "b.test", "c.test"} {
		s, _ := boot(t, testConfig(t, name))
		token := register(t, s.URLs()[0], "alice")
		if _, got := call(t, "GET", s.URLs()[0]+"/_matrix/client/v3/account/whoami", token, ""); got["user_id"] != "@alice:"+name {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMetricsOfAServer(t *testing.T) {
	s, _ := boot(t, testConfig(t, "m.test"))
	register(t, s.URLs()[0], "alice")
	res, err := http.Get(s.AdminURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	for _, want := range []string{
		`weft_http_requests_total{code="200",method="POST",route="/_matrix/client/v3/register"} 1`,
		`weft_build_info{database="sqlite"`, "weft_db_commits_total", "weft_bus_published_total", "go_goroutines",
	} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestServerWithTLS(t *testing.T) {
	files := tlsFiles(t)
	writeCertificate(t, files, "localhost")
	c := testConfig(t, "tls.test")
	c.Listeners = append(c.Listeners, Listener{Address: "127.0.0.1:0", TLS: files})
	s, _ := boot(t, c)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	res, err := client.Get(s.URLs()[1] + "/_matrix/client/versions")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || !strings.HasPrefix(s.URLs()[1], "https://") {
		t.Errorf("%s: %d", s.URLs()[1], res.StatusCode)
	}
}

// A server that cannot start says why and leaves nothing open.
func TestServersThatCannotStart(t *testing.T) {
	running, _ := boot(t, testConfig(t, "first.test"))
	taken := strings.TrimPrefix(running.URLs()[0], "http://")
	for _, c := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"invalid", func(c *Config) { c.Log.Level = "loud" }, "log.level"},
		{"address taken", func(c *Config) { c.Listeners = append(c.Listeners, Listener{Address: taken}) }, "listen"},
		{"admin address taken", func(c *Config) { c.AdminListen = taken }, "listen"},
		{"no certificate", func(c *Config) { c.Listeners[0].TLS = TLS{Certificate: "none", Key: "none"} }, "certificate"},
		{"no database", func(c *Config) { c.Database = "postgres://127.0.0.1:1/none?connect_timeout=1" }, "database"},
		{"bad key", func(c *Config) { c.SigningKey = writeFile(t, "nonsense") }, "signing key"},
		{"no CA", func(c *Config) { c.Federation.CAFile = "none" }, "none"},
		{"no registration file", func(c *Config) { c.Appservices = []string{"none.yaml"} }, "none.yaml"},
		{"bad registration file", func(c *Config) { c.Appservices = []string{writeFile(t, "id: x")} }, "as_token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t, "second.test")
			c.edit(&cfg)
			s, err := Run(context.Background(), cfg, RunOptions{Log: quiet().Logger})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error about %q", s, err, c.want)
			}
		})
	}
}

// Processes on one database keep media in one place: in the database, or in a folder that all were told of.
func TestWhereMediaAre(t *testing.T) {
	c := testConfig(t, "m.test")
	c.Database = sqldbtest.PostgresURL(t)
	s, stop := boot(t, c)
	base := s.URLs()[0]
	_, got := call(t, "POST", base+"/_matrix/media/v3/upload", register(t, base, "alice"), "a picture")
	var n int
	if err := s.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM media_blobs`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%v: %d in the database (%v)", got, n, err)
	}
	stop()
	other := testConfig(t, "m.test")
	other.Database, other.Media.Path = c.Database, t.TempDir()
	s, err := Run(t.Context(), other, RunOptions{Log: quiet().Logger})
	if err == nil || !strings.Contains(err.Error(), "media.path") {
		t.Errorf("with a folder: %v, %v", s, err)
	}
}

func TestUsersWithoutAServer(t *testing.T) {
	c := testConfig(t, "u.test")
	c.Registration.Mode = "closed"
	ctx := t.Context()
	if user, err := CreateUser(ctx, &c, "bob", "builder-99", true); err != nil || user != "@bob:u.test" {
		t.Fatal(user, err)
	}
	if _, err := CreateUser(ctx, &c, "@bob:u.test", "builder-99", false); err == nil {
		t.Error("an account was made twice")
	}
	if _, err := CreateUser(ctx, &c, "@bob:elsewhere.test", "builder-99", false); err == nil {
		t.Error("an account of another server was made")
	}
	if _, err := CreateUser(ctx, &c, "Bob Builder", "builder-99", false); err == nil {
		t.Error("a name that is not allowed was taken")
	}
	if _, err := SetPassword(ctx, &c, "bob", "other-word-1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := SetPassword(ctx, &c, "nobody", "other-word-1", true); err == nil {
		t.Error("nobody has a password")
	}
	s, _ := boot(t, c)
	login := func(password string) int {
		status, _ := call(t, "POST", s.URLs()[0]+"/_matrix/client/v3/login", "",
			`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"bob"},"password":"`+password+`"}`)
		return status
	}
	if got := login("builder-99"); got != 403 {
		t.Errorf("the old password: %d", got)
	}
	if got := login("other-word-1"); got != 200 {
		t.Errorf("the new password: %d", got)
	}
}

func TestAppserviceFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a"} {
		content := "id: " + name + "\nurl: null\nas_token: as-" + name + "\nhs_token: hs\nsender_localpart: bot_" + name + "\nnamespaces: {}\n"
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := testConfig(t, "as.test")
	c.Appservices = []string{filepath.Join(dir, "*.yaml"), filepath.Join(dir, "*.yml")}
	list, err := c.appservices()
	if err != nil || len(list) != 2 || list[0].ID != "a" || list[1].ID != "b" {
		t.Fatalf("%+v %v", list, err)
	}
	s, _ := boot(t, c)
	if status, got := call(t, "GET", s.URLs()[0]+"/_matrix/client/v3/account/whoami", "as-a", ""); status != 200 || got["user_id"] != "@bot_a:as.test" {
		t.Errorf("%d %v", status, got)
	}
}

func TestStopIsLogged(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Run(ctx, testConfig(t, "log.test"), RunOptions{Log: log})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"Weft is listening", s.URLs()[0], "stopping", "stopped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
}
