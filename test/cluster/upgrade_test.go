package cluster

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

// expansion is what a next release adds to the schema: what the program of this tree does not know and can go on with.
var expansion = map[string]string{
	"internal/eventstore/migrations/00002_next.sql": `-- weft: oldest 1
-- +goose Up
ALTER TABLE rooms ADD COLUMN next_mood BIGINT NOT NULL DEFAULT 0;
CREATE TABLE next_moods (room_nid BIGINT PRIMARY KEY, mood TEXT NOT NULL);
`,
	"syncapi/migrations/00002_next.sql": `-- weft: oldest 1
-- +goose Up
ALTER TABLE unread ADD COLUMN next_mood BIGINT;
`,
	"federationapi/migrations/00002_next.sql": `-- weft: oldest 1
-- +goose Up
CREATE INDEX next_fed_edus ON fed_edus (server);
`,
}

// contraction is what the release after that takes away.
var contraction = map[string]string{
	"internal/eventstore/migrations/00003_after.sql": `-- weft: oldest 2
-- +goose Up
ALTER TABLE rooms DROP COLUMN next_mood;
`,
}

// newer are the places of the source at which a next release differs: it knows an option more, sends events
// with a method that this program does not have and with a field more, and still answers to the old one.
var newer = []struct{ file, old, new string }{
	{"setup/config.go", "type TURN struct {\n", "type TURN struct {\n\tMood string `yaml:\"mood\" doc:\"What a next release has.\"`\n"},
	{"roomserver/api/rooms.go", "type SendEvent struct {\n", "type SendEvent struct {\n\tMood string\n"},
	{"roomserver/api/remote.go", `c := rooms("SendEvent", `, `req.Mood = "good"` + "\n\tc := rooms(\"SendEventNext\", "},
	{"roomserver/api/remote.go", `"SendEvent": c.SendEvent,`, `"SendEvent": c.SendEvent, "SendEventNext": c.SendEvent,`},
}

// buildRelease builds the program that a later release could be: that of this tree with changes and further migrations.
func buildRelease(t *testing.T, added ...map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	must(t, err)
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	put := func(file, text string) {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		must(t, os.WriteFile(to, []byte(text), 0o600))
		overlay.Replace[filepath.Join(root, file)] = to
	}
	changed := map[string]string{}
	for _, c := range newer {
		if changed[c.file] == "" {
			text, err := os.ReadFile(filepath.Join(root, c.file))
			must(t, err)
			changed[c.file] = string(text)
		}
		if strings.Count(changed[c.file], c.old) != 1 {
			t.Fatalf("%s does not have %q once", c.file, c.old)
		}
		changed[c.file] = strings.Replace(changed[c.file], c.old, c.new, 1)
	}
	for _, files := range append(added, changed) {
		for file, text := range files {
			put(file, text)
		}
	}
	list, err := json.Marshal(overlay)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600))
	program := filepath.Join(dir, "weft")
	if out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "weft/cmd/weft").CombinedOutput(); err != nil {
		t.Fatalf("building a later release: %v\n%s", err, out)
	}
	return program
}

// A cluster is upgraded one process after another while clients work: they see no error. Processes of both releases run side by
// side, and one of the older that dies meanwhile starts again. What a release after that takes away waits until nobody uses it.
func TestRollingUpgrade(t *testing.T) {
	long(t)
	next := buildRelease(t, expansion)
	after := buildRelease(t, expansion, contraction)
	c := newCluster(t, 3)
	c.start()
	b := newBalancer(t, c.nodes)
	w := newWorkload(t, []*node{b.front}, 4, 3)
	db := sqldbtest.Open(t, c.database)
	refused := func(program, why string) {
		t.Helper()
		n := c.add()
		n.other = program
		n.launch()
		select {
		case <-n.exited:
		case <-time.After(startLimit):
			t.Fatalf("it was to be refused with %q: %s", why, n.log.String())
		}
		if out := n.log.String(); n.result == nil || !strings.Contains(out, why) {
			t.Errorf("it was to be refused with %q: %v\n%s", why, n.result, out)
		}
		c.nodes = c.nodes[:len(c.nodes)-1]
	}
	upgrade := func(n *node, program string) {
		t.Helper()
		worst, repeated, met := w.c.during(func() {
			n.stop()
			n.other = program
			n.start()
			b.awaitUp(t, n)
			w.sent(100)
		})
		t.Logf("%s upgraded: longest request %s, %d repeated", n.name, worst, repeated)
		if repeated > 0 || b.broken.Load() > 0 {
			t.Errorf("%s upgraded: %d errors of nodes, clients saw %q", n.name, b.broken.Load(), met)
		}
	}
	under(t, c, w, func(ctx context.Context) {
		w.sent(100)
		// The newer one notes an option that the others do not know.
		c.nodes[0].env = []string{"WEFT_TURN_MOOD=fair"}
		upgrade(c.nodes[0], next)
		var moods int
		must(t, db.QueryRow(ctx, `SELECT count(*) FROM next_moods`).Scan(&moods)) // the schema is the newer one's
		joiner := c.addWith()                                                     // an older one that is told nothing but the database
		joiner.start()
		joiner.stop()
		c.nodes = c.nodes[:3]
		c.nodes[1].kill() // an older one dies, and starts again
		c.nodes[1].start()
		b.awaitUp(t, c.nodes[1])
		b.broken.Store(0)
		w.sent(100)
		var noted string
		must(t, db.QueryRow(ctx, `SELECT convert_from(value, 'UTF8') FROM cluster_settings WHERE name = 'config'`).Scan(&noted))
		if !strings.Contains(noted, "mood: fair") {
			t.Errorf("the newer option was forgotten: %s", noted)
		}
		refused(after, "works with the database and knows the schema of eventstore up to version 1, where 2 is needed")
		upgrade(c.nodes[1], next)
		upgrade(c.nodes[2], next)
		upgrade(c.nodes[0], after)
		refused("", "used by a newer program")
		w.sent(100)
		upgrade(c.nodes[1], after)
		upgrade(c.nodes[2], after)
	})
}
