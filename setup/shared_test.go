package setup

import (
	"strings"
	"testing"

	"weft/internal/cluster"
	"weft/internal/sqldb/sqldbtest"
)

// Programs of two releases run on one database while a cluster is upgraded: the older one starts with what the newer one has noted, and
// what it notes itself forgets nothing of that.
func TestOptionsOfANewerProgram(t *testing.T) {
	c := testConfig(t, "newer.test")
	c.Database = sqldbtest.PostgresURL(t)
	c.TURN.Username = "ours"
	_, stop := boot(t, c)
	stop()
	db := sqldbtest.Open(t, c.Database)
	noted := func() string {
		t.Helper()
		said, err := cluster.Setting(t.Context(), db, settingConfig, func() ([]byte, error) { return nil, errNameless })
		if err != nil {
			t.Fatal(err)
		}
		return string(said)
	}
	said := strings.Replace(noted(), "turn:\n", "moods:\n    all: [fair, good]\nturn:\n    mood: fair\n", 1)
	if err := cluster.SetSetting(t.Context(), db, settingConfig, []byte(said)); err != nil {
		t.Fatal(err)
	}
	nameless := testConfig(t, "")
	nameless.Database = c.Database
	s, stop := boot(t, nameless)
	if s.cfg.ServerName != "newer.test" || s.cfg.TURN.Username != "ours" {
		t.Errorf("it took %q and %q", s.cfg.ServerName, s.cfg.TURN.Username)
	}
	stop()
	if noted() != said {
		t.Errorf("one that took it all changed it to %s", noted())
	}
	c.TURN.Username = "changed"
	_, stop = boot(t, c)
	stop()
	for _, want := range []string{"mood: fair", "all:", "- good", "username: changed"} {
		if !strings.Contains(noted(), want) {
			t.Errorf("%q is not in %s", want, noted())
		}
	}
}
