package clientapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertToken = `INSERT INTO access_tokens
	(id, token_hash, refresh_hash, localpart, device_id, created_ts, expires_ts, replaces)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	selectToken = `SELECT t.id, t.localpart, t.device_id, t.expires_ts, t.replaces,
	a.admin, a.guest, a.deactivated, a.locked, a.suspended
	FROM access_tokens t JOIN accounts a ON a.localpart = t.localpart WHERE t.token_hash = $1`
	// lockRefresh reads a pair of tokens and keeps others from taking its place at the same time.
	lockRefresh = `UPDATE access_tokens SET replaces = replaces WHERE refresh_hash = $1
	RETURNING id, localpart, device_id, replaces,
	(SELECT a.locked FROM accounts a WHERE a.localpart = access_tokens.localpart),
	(SELECT a.deactivated FROM accounts a WHERE a.localpart = access_tokens.localpart)`
	updateTokenConfirmed  = `UPDATE access_tokens SET replaces = 0 WHERE id = $1`
	deleteToken           = `DELETE FROM access_tokens WHERE id = $1 RETURNING token_hash`
	deleteTokensReplacing = `DELETE FROM access_tokens WHERE replaces = $1 RETURNING token_hash`
	deleteTokensOfDevice  = `DELETE FROM access_tokens WHERE localpart = $1 AND device_id = $2 RETURNING token_hash`
	deleteTokensOfUser    = `DELETE FROM access_tokens WHERE localpart = $1 RETURNING token_hash`
	selectTokensOfUser    = `SELECT token_hash FROM access_tokens WHERE localpart = $1`
)

// newSecret makes a token of 256 random bits with a prefix that says what it is.
func newSecret(prefix string) string {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// tokenHash is what is stored of a token. Tokens are random, so a fast hash
// without salt is enough.
func tokenHash(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}

// newTokenID makes a row ID; randomness saves a counter that all logins share.
func newTokenID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])>>1) | 1
}

// newSession is a request for a pair of tokens.
type newSession struct {
	localpart string
	device    id.Device // empty: one is made
	display   string    // for a new device
	refresh   bool      // the client can refresh tokens
	address   string
	agent     string
}

// issued are the tokens of a new session.
type issued struct {
	device    id.Device
	access    string
	refresh   string
	lifetime  time.Duration // 0: no end
	newDevice bool
}

// openSession stores a device where it is new and gives it tokens. Tokens that
// the device had before end.
//
// spec: client-server §5.4 (Relationship between access tokens and devices)
func (s *Server) openSession(ctx context.Context, tx *sqldb.Tx, n newSession) (issued, error) {
	out := issued{device: n.device}
	if out.device == "" {
		out.device = id.Device(rand.Text()[:10])
	}
	created, err := s.createDevice(ctx, tx, n, out.device)
	if err != nil {
		return issued{}, err
	}
	out.newDevice = created
	if !created {
		if err := s.endTokens(ctx, tx, deleteTokensOfDevice, n.localpart, string(out.device)); err != nil {
			return issued{}, err
		}
	}
	if err := s.issueTokens(ctx, tx, n.localpart, &out, n.refresh, 0); err != nil {
		return issued{}, err
	}
	return out, nil
}

func (s *Server) issueTokens(ctx context.Context, tx *sqldb.Tx, localpart string, out *issued, refresh bool, replaces int64) error {
	now := s.nowMS()
	out.access = newSecret("wat_")
	var expires int64
	var refreshHash any // NULL where there is none
	if refresh {
		out.refresh = newSecret("wrt_")
		out.lifetime = s.cfg.AccessTokenLifetime
		refreshHash = tokenHash(out.refresh)
		expires = now + out.lifetime.Milliseconds()
	}
	_, err := tx.Exec(ctx, insertToken, newTokenID(), tokenHash(out.access), refreshHash,
		localpart, string(out.device), now, expires, replaces)
	if err != nil {
		return fmt.Errorf("storing an access token: %w", err)
	}
	return nil
}

// endTokens deletes tokens by a statement that returns their hashes, and makes
// every node forget them after the commit. It locks a counter, so call it late in a transaction.
func (s *Server) endTokens(ctx context.Context, tx *sqldb.Tx, stmt string, args ...any) error {
	hashes, err := queryHashes(ctx, tx, stmt, args...)
	if err != nil {
		return err
	}
	return s.forgetSessions(ctx, tx, hashes)
}

// forgetSessions makes every node forget what it keeps of tokens after the commit.
func (s *Server) forgetSessions(ctx context.Context, tx *sqldb.Tx, hashes [][]byte) error {
	if len(hashes) == 0 {
		return nil
	}
	var pos int64
	if s.cfg.Shared {
		var err error
		if pos, err = stream.Advance(ctx, tx, streamSessions, 1); err != nil {
			return err
		}
	}
	tx.OnCommit(func() { s.sessions.forget(hashes, pos) })
	return nil
}

func queryHashes(ctx context.Context, q sqldb.Querier, stmt string, args ...any) ([][]byte, error) {
	rows, err := q.Query(ctx, stmt, args...)
	if err != nil {
		return nil, fmt.Errorf("finding access tokens: %w", err)
	}
	defer rows.Close()
	var hashes [][]byte
	for rows.Next() {
		var h []byte
		if err := rows.Scan(&h); err != nil {
			return nil, fmt.Errorf("reading an access token: %w", err)
		}
		hashes = append(hashes, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading access tokens: %w", err)
	}
	return hashes, nil
}

// Authenticate implements api.Accounts.
func (s *Server) Authenticate(ctx context.Context, req api.Authenticate) (api.Session, error) {
	return s.authenticate(ctx, req, false)
}

// authenticate lets a locked user in where allowLocked is set: such a user may
// still log out.
//
// spec: client-server §5.10 (Account locking)
func (s *Server) authenticate(ctx context.Context, req httpapi.Credentials, allowLocked bool) (api.Session, error) {
	if req.Token == "" {
		return api.Session{}, merr.MissingToken("no access token was given")
	}
	if as := s.appservices.byToken(req.Token); as != nil {
		return s.authenticateAppservice(ctx, as, req)
	}
	hash := tokenHash(req.Token)
	sess, err := s.lookUpSession(ctx, hash)
	if err != nil {
		return api.Session{}, err
	}
	if sess.expires != 0 && sess.expires <= s.nowMS() {
		// spec: client-server §5.5.1 (Soft logout)
		return api.Session{}, merr.UnknownToken("the access token has expired").With("soft_logout", true)
	}
	if sess.locked && !allowLocked {
		return api.Session{}, merr.UserLocked("the account is locked").With("soft_logout", true)
	}
	s.lastSeen.note(sess.User, sess.Device, req.Address, req.Agent, s.nowMS())
	return sess.Session, nil
}

// cachedSession is a session with what may change what it is good for.
type cachedSession struct {
	api.Session
	expires int64 // ms; 0: never
	locked  bool
}

func (s *Server) lookUpSession(ctx context.Context, hash []byte) (cachedSession, error) {
	if c, ok := s.sessions.get(hash); ok {
		s.metrics.tokenHits.Inc()
		return c, nil
	}
	s.metrics.tokenMisses.Inc()
	mark := s.sessions.mark()
	var c cachedSession
	var localpart, device string
	var replaces int64
	var deactivated bool
	err := s.db.QueryRow(ctx, selectToken, hash).Scan(&c.TokenID, &localpart, &device, &c.expires, &replaces,
		&c.Admin, &c.Guest, &deactivated, &c.locked, &c.Suspended)
	if errors.Is(err, sql.ErrNoRows) || err == nil && deactivated {
		return c, merr.UnknownToken("the access token is not known").With("soft_logout", false)
	}
	if err != nil {
		return c, fmt.Errorf("reading an access token: %w", err)
	}
	if replaces != 0 {
		if err := s.confirmTokens(ctx, c.TokenID, replaces); err != nil {
			return c, err
		}
	}
	c.User = s.userID(localpart)
	c.Device = id.Device(device)
	s.sessions.put(hash, c, mark)
	return c, nil
}

// confirmTokens ends the pair of tokens that a refresh replaced, now that the
// new pair has arrived at the client.
//
// spec: client-server §5.5 (POST /refresh): the old refresh token remains valid
// until the new access token or refresh token is used.
func (s *Server) confirmTokens(ctx context.Context, tokenID, replaced int64) error {
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		res, err := tx.Exec(ctx, updateTokenConfirmed, tokenID)
		if err != nil {
			return fmt.Errorf("confirming refreshed tokens: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			// Another refresh took its place since it was read.
			return errors.Join(err, merr.UnknownToken("the access token is not known").With("soft_logout", false))
		}
		return s.endTokens(ctx, tx, deleteToken, replaced)
	})
	if err != nil {
		return fmt.Errorf("ending refreshed tokens: %w", err)
	}
	return nil
}

// userID is the ID of a local user whose localpart is stored.
func (s *Server) userID(localpart string) id.User {
	return id.User("@" + localpart + ":" + string(s.cfg.ServerName))
}
