package setup

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"weft/internal/sqldb/sqldbtest"
)

// fetch gets what a user may have.
func fetch(t *testing.T, url, token string) string {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Errorf("%s: %d %v", url, res.StatusCode, err)
	}
	return string(data)
}

func TestServerWithAReplica(t *testing.T) {
	pg := sqldbtest.NewReplicated(t)
	primary, standby := pg.URLs()
	c := testConfig(t, "r.test")
	c.Database = primary
	s, stop := boot(t, c)
	base := s.URLs()[0]
	token := register(t, base, "alice")
	_, uploaded := call(t, "POST", base+"/_matrix/media/v3/upload", token, "a picture")
	_, room := call(t, "POST", base+"/_matrix/client/v3/createRoom", token, `{"name":"here"}`)
	stop()
	pg.CatchUp()

	c.DatabaseReplicas = []string{standby}
	s, stop = boot(t, c)
	look := func() {
		t.Helper()
		base := s.URLs()[0]
		media := strings.TrimPrefix(uploaded["content_uri"].(string), "mxc://")
		if got := fetch(t, base+"/_matrix/client/v1/media/download/"+media, token); got != "a picture" {
			t.Errorf("got %q", got)
		}
		if got := fetch(t, base+"/_matrix/client/v3/rooms/"+room["room_id"].(string)+"/state/m.room.name", token); got != `{"name":"here"}` {
			t.Errorf("got %s", got)
		}
	}
	look()
	if asked := s.db.ReplicaStats(); asked.Found < 2 || asked.Missed+asked.Failed != 0 {
		t.Errorf("%+v", asked)
	}
	metrics := fetch(t, s.AdminURL()+"/metrics", token)
	for _, want := range []string{"weft_db_replicas_used 1\n", `weft_db_replica_reads_total{result="missed"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	pg.Stop()
	look()
	stop()
	s, stop = boot(t, c) // the replica is away
	look()
	stop()

	c.DatabaseReplicas = []string{sqldbtest.PostgresURL(t)}
	if s, err := Run(context.Background(), c, RunOptions{Log: quiet().Logger}); err == nil || !strings.Contains(err.Error(), "database_replicas") ||
		!strings.Contains(err.Error(), "another database") {
		t.Errorf("with a replica of another database: %v, %v", s, err)
	}
}
