package clientapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/matrix/id"
	roomapi "weft/roomserver/api"

	"github.com/tidwall/gjson"
)

const (
	upsertSpread = `INSERT INTO profile_spread (localpart, changed_ts) VALUES ($1, $2)
	ON CONFLICT (localpart) DO UPDATE SET changed_ts =
	CASE WHEN excluded.changed_ts > profile_spread.changed_ts THEN excluded.changed_ts ELSE profile_spread.changed_ts + 1 END`
	selectSpread = `SELECT changed_ts FROM profile_spread WHERE localpart = $1`
	nextSpread   = `SELECT localpart, changed_ts FROM profile_spread WHERE localpart > $1 ORDER BY localpart LIMIT 1`
	deleteSpread = `DELETE FROM profile_spread WHERE localpart = $1 AND changed_ts = $2`
)

// noteSpread notes durably that a user's rooms are to learn of a change: of the
// profile, or that the account is gone.
func noteSpread(ctx context.Context, tx *sqldb.Tx, localpart string, now int64) error {
	if _, err := tx.Exec(ctx, upsertSpread, localpart, now); err != nil {
		return fmt.Errorf("noting a changed profile: %w", err)
	}
	return nil
}

const (
	// spreadPatience is how long a request waits for its profile change to
	// reach rooms; what is left goes on in the background.
	spreadPatience = 2 * time.Second
	// spreadInterval is when notes of other nodes, or from before a restart,
	// are looked for.
	spreadInterval = time.Minute
)

// profileSpreader carries profile changes into the member events of rooms. The
// notes are in the database, so a restart loses none; carrying is idempotent, so
// it does not matter who does it, or twice.
type profileSpreader struct {
	s     *Server
	woken chan struct{}
}

func newProfileSpreader(s *Server) *profileSpreader {
	return &profileSpreader{s: s, woken: make(chan struct{}, 1)}
}

func (p *profileSpreader) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// soon carries a user's change into as many rooms as fit into a short wait.
func (p *profileSpreader) soon(ctx context.Context, user id.User) {
	ctx, cancel := context.WithTimeout(ctx, spreadPatience)
	defer cancel()
	var mark int64
	err := p.s.db.QueryRow(ctx, selectSpread, user.Localpart()).Scan(&mark)
	if errors.Is(err, sql.ErrNoRows) {
		return
	}
	if err == nil {
		err = p.carry(ctx, user, mark)
	}
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			p.s.log.WithError(err).WithField("user", user).Warn("a profile change did not reach all rooms yet")
		}
		p.wake()
	}
}

func (p *profileSpreader) run(ctx context.Context) {
	tick := time.NewTicker(spreadInterval)
	defer tick.Stop()
	for {
		if err := p.all(ctx); err != nil && ctx.Err() == nil {
			p.s.log.WithError(err).Warn("profile changes did not reach all rooms yet")
		}
		select {
		case <-p.woken:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// all goes through the notes once. A user whose rooms fail does not hold up the
// others.
func (p *profileSpreader) all(ctx context.Context) error {
	var failed error
	after := ""
	for {
		var localpart string
		var mark int64
		err := p.s.db.QueryRow(ctx, nextSpread, after).Scan(&localpart, &mark)
		if errors.Is(err, sql.ErrNoRows) {
			return failed
		}
		if err != nil {
			return fmt.Errorf("reading changed profiles: %w", err)
		}
		if err := p.carry(ctx, p.s.userID(localpart), mark); err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = err
		}
		after = localpart
	}
}

// carry brings one user's rooms up to date and removes the note with its mark: a
// change in between leaves a note with another mark.
func (p *profileSpreader) carry(ctx context.Context, user id.User, mark int64) error {
	acc, err := getAccount(ctx, p.s.db, user.Localpart())
	if err != nil {
		return err
	}
	if acc.deactivated {
		err = p.s.leaveRooms(ctx, user)
	} else {
		err = p.updateRooms(ctx, user)
	}
	if err != nil {
		return err
	}
	if _, err := p.s.db.Exec(ctx, deleteSpread, user.Localpart(), mark); err != nil {
		return fmt.Errorf("removing the note of a changed profile: %w", err)
	}
	return nil
}

func (p *profileSpreader) updateRooms(ctx context.Context, user id.User) error {
	rooms, err := p.s.cfg.Events.RoomsOf(ctx, user, eventstore.Join)
	if err != nil {
		return fmt.Errorf("listing a user's rooms: %w", err)
	}
	for _, m := range rooms {
		// Read anew for each room: the profile may have changed meanwhile.
		content, err := p.s.memberContent(ctx, user, nil)
		if err != nil {
			return err
		}
		ev, err := p.s.cfg.Events.Event(ctx, m.Event)
		if err != nil {
			return fmt.Errorf("reading a member event: %w", err)
		}
		if sameProfile(ev.Content(), content) {
			continue
		}
		_, err = p.s.cfg.Rooms.SetMembership(ctx, roomapi.SetMembership{
			Room: m.RoomID, Sender: user, Target: user, Membership: "join", Content: content})
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			// A room that refuses must not hold up the others for ever.
			p.s.log.WithError(err).WithField("room", m.RoomID).Warn("a profile change did not get into a room")
		}
	}
	return nil
}

func sameProfile(a, b []byte) bool {
	for _, k := range []string{fieldDisplayName, fieldAvatar} {
		if gjson.GetBytes(a, k).String() != gjson.GetBytes(b, k).String() {
			return false
		}
	}
	return true
}
