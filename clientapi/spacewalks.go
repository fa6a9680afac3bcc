package clientapi

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// walkLifetime is how long a page's token works.
	walkLifetime = time.Hour
	// maxWalks bounds the tokens of one user, maxWalkRooms the rooms of one walk.
	maxWalks     = 50
	maxWalkRooms = 5000
)

const (
	insertWalk = `INSERT INTO space_walks (token_hash, localpart, walk, expires_ts) VALUES ($1, $2, $3, $4)`
	selectWalk = `SELECT walk FROM space_walks WHERE token_hash = $1 AND localpart = $2 AND expires_ts > $3`
	trimWalks  = `DELETE FROM space_walks WHERE localpart = $1 AND token_hash NOT IN
		(SELECT token_hash FROM space_walks WHERE localpart = $1 ORDER BY expires_ts DESC, token_hash LIMIT $2)`
	deleteWalksOfUser = `DELETE FROM space_walks WHERE localpart = $1`
)

// spaceWalk is a walk over the tree of a space, depth first, between two pages. It is
// kept in the database, so that any node can go on with it; it is never changed, so that a
// page can be asked for again.
type spaceWalk struct {
	Root      id.Room `json:"root"`
	MaxDepth  int     `json:"max_depth"`
	Suggested bool    `json:"suggested_only"`
	// Path leads to where the walk is: the spaces that it has entered and not left, the
	// root first. It is empty before the first page.
	Path []walkStep `json:"path"`
	// Seen is seen, as it is stored.
	Seen []byte `json:"seen"`

	// seen has the depth at which a room was first shown, and 0 for those that are not to be
	// looked at again.
	seen map[roomHash]uint8
}

// walkStep is a space on the path, and the last of its children that was looked at.
type walkStep struct {
	Room  id.Room `json:"room"`
	After id.Room `json:"after"`
}

// roomHash stands for a room in a walk: 8 bytes instead of up to 255.
type roomHash [8]byte

func hashRoom(room id.Room) roomHash {
	h := sha256.Sum256([]byte(room))
	return roomHash(h[:8])
}

// done tells whether a room that is met at a depth has been told of with all that is below
// it: it was met there, or nearer to the root, where more of its children are within reach.
func (w *spaceWalk) done(room id.Room, depth int) bool {
	at, ok := w.seen[hashRoom(room)]
	return ok && int(at) <= depth
}

// shown tells whether a room is in this page or an earlier one.
func (w *spaceWalk) shown(room id.Room) bool {
	_, ok := w.seen[hashRoom(room)]
	return ok
}

func (w *spaceWalk) see(room id.Room, depth int) { w.seen[hashRoom(room)] = uint8(depth) }

// saveWalk stores a walk and gives the token of its next page.
func (s *Server) saveWalk(ctx context.Context, user id.User, w *spaceWalk) (string, error) {
	w.Seen = make([]byte, 0, len(w.seen)*(len(roomHash{})+1))
	for h, depth := range w.seen {
		w.Seen = append(append(w.Seen, h[:]...), depth)
	}
	raw, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("writing down a walk over a space: %w", err)
	}
	token := newSecret("wsh_")
	err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, insertWalk, tokenHash(token), user.Localpart(), raw, s.now().Add(walkLifetime).UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, trimWalks, user.Localpart(), maxWalks)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("storing a walk over a space: %w", err)
	}
	return token, nil
}

// loadWalk finds the walk of a user by the token of a page. One that is unknown, has
// expired or is somebody else's is M_INVALID_PARAM.
func (s *Server) loadWalk(ctx context.Context, user id.User, token string) (*spaceWalk, error) {
	var raw []byte
	err := s.db.QueryRow(ctx, selectWalk, tokenHash(token), user.Localpart(), s.nowMS()).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, merr.InvalidParam("from is no token of this endpoint, or has expired")
	}
	if err != nil {
		return nil, fmt.Errorf("reading a walk over a space: %w", err)
	}
	w := new(spaceWalk)
	if err := json.Unmarshal(raw, w); err != nil {
		return nil, fmt.Errorf("reading a walk over a space: %w", err)
	}
	const entry = len(roomHash{}) + 1
	w.seen = make(map[roomHash]uint8, len(w.Seen)/entry)
	for b := w.Seen; len(b) >= entry; b = b[entry:] {
		w.seen[roomHash(b)] = b[entry-1]
	}
	return w, nil
}
