package setup

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/sqldb/sqldbtest"
)

// A server that has outgrown its file goes on with PostgreSQL: same users, rooms, tokens, media and key.
func TestMigrateDatabase(t *testing.T) {
	c := testConfig(t, "moving.test")
	s, stop := boot(t, c)
	base := s.URLs()[0]
	token := register(t, base, "alice")
	_, made := call(t, "POST", base+"/_matrix/client/v3/createRoom", token, `{"preset":"private_chat"}`)
	room, _ := made["room_id"].(string)
	send := func(base, txn string) string {
		t.Helper()
		_, sent := call(t, "PUT", base+"/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+txn, token, `{"msgtype":"m.text","body":"`+txn+`"}`)
		event, _ := sent["event_id"].(string)
		return event
	}
	first := send(base, "before")
	_, synced := call(t, "GET", base+"/_matrix/client/v3/sync", token, "")
	picture := strings.Repeat("a picture ", 100_000)
	_, up := call(t, "POST", base+"/_matrix/media/v3/upload", token, picture)
	uri, _ := up["content_uri"].(string)
	from, to := "sqlite:"+filepath.Join(c.DataDir, "weft.db"), sqldbtest.PostgresURL(t)
	var said []string
	migrate := func() error {
		return MigrateDatabase(t.Context(), c, from, to, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	}
	if err := migrate(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("while the server runs: %v", err)
	}
	key := s.key
	stop()
	if err := migrate(); err != nil {
		t.Fatal(err)
	}
	if last := said[len(said)-1]; !strings.Contains(last, "1 media (1000000 bytes)") {
		t.Errorf("it says %q", said)
	}
	if _, err := Run(t.Context(), c, RunOptions{Log: quiet().Logger}); err == nil || !strings.Contains(err.Error(), "moved") {
		t.Errorf("the old file: %v", err)
	}
	if err := migrate(); err == nil {
		t.Error("it was moved twice")
	}

	// Elsewhere, with nothing but the database.
	other := testConfig(t, "")
	other.Database = to
	s, stop = bootWith(t, other, RunOptions{Log: quiet().Logger, Version: "test"})
	defer stop()
	base = s.URLs()[0]
	if s.key.ID != key.ID || !s.key.Private.Equal(key.Private) || s.cfg.ServerName != "moving.test" {
		t.Errorf("key %s of %s, it was %s", s.key.ID, s.cfg.ServerName, key.ID)
	}
	if again := send(base, "before"); again != first || first == "" {
		t.Errorf("the same transaction gave %q, then %q", first, again)
	}
	second := send(base, "after")
	since, _ := synced["next_batch"].(string)
	_, history := call(t, "GET", base+"/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=2", token, "")
	var got []string
	for _, e := range history["chunk"].([]any) {
		got = append(got, e.(map[string]any)["event_id"].(string))
	}
	if len(got) != 2 || got[0] != second || got[1] != first {
		t.Errorf("history %v, want %s, %s", got, second, first)
	}
	if status, answer := call(t, "GET", base+"/_matrix/client/v3/sync?since="+url.QueryEscape(since), token, ""); status != 200 {
		t.Errorf("/sync from the old token: %d %v", status, answer)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != picture {
		t.Errorf("the picture: %d, %d bytes, %v", res.StatusCode, len(body), err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
}
