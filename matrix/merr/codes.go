package merr

// spec: client-server §2.1.1 and §2.1.2 (error codes), with the status each one goes with.

// Sentinels for errors.Is, which compares errcodes.
var (
	ErrForbidden                   = &Error{Status: 403, Code: "M_FORBIDDEN", Message: "the requester may not do this"}
	ErrUnknownToken                = &Error{Status: 401, Code: "M_UNKNOWN_TOKEN", Message: "the access token is not known (any more)"}
	ErrMissingToken                = &Error{Status: 401, Code: "M_MISSING_TOKEN", Message: "no access token was given"}
	ErrUnauthorized                = &Error{Status: 401, Code: "M_UNAUTHORIZED", Message: "the request was not correctly authorised"}
	ErrUserLocked                  = &Error{Status: 401, Code: "M_USER_LOCKED", Message: "the account is locked"}
	ErrUserSuspended               = &Error{Status: 403, Code: "M_USER_SUSPENDED", Message: "the account is suspended"}
	ErrUserDeactivated             = &Error{Status: 403, Code: "M_USER_DEACTIVATED", Message: "the account is deactivated"}
	ErrBadJSON                     = &Error{Status: 400, Code: "M_BAD_JSON", Message: "the body is JSON but of the wrong shape"}
	ErrNotJSON                     = &Error{Status: 400, Code: "M_NOT_JSON", Message: "the body is no JSON"}
	ErrNotFound                    = &Error{Status: 404, Code: "M_NOT_FOUND", Message: "nothing was found there"}
	ErrLimitExceeded               = &Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "too many requests"}
	ErrUnrecognized                = &Error{Status: 404, Code: "M_UNRECOGNIZED", Message: "the endpoint is not known"}
	ErrUnknown                     = &Error{Status: 400, Code: "M_UNKNOWN", Message: "an error that has no code of its own"}
	ErrUserInUse                   = &Error{Status: 400, Code: "M_USER_IN_USE", Message: "the user ID is taken"}
	ErrInvalidUsername             = &Error{Status: 400, Code: "M_INVALID_USERNAME", Message: "the user ID is not valid"}
	ErrRoomInUse                   = &Error{Status: 400, Code: "M_ROOM_IN_USE", Message: "the alias is taken"}
	ErrInvalidRoomState            = &Error{Status: 400, Code: "M_INVALID_ROOM_STATE", Message: "the initial state is not valid"}
	ErrThreepidInUse               = &Error{Status: 400, Code: "M_THREEPID_IN_USE", Message: "the third-party identifier is taken"}
	ErrThreepidNotFound            = &Error{Status: 400, Code: "M_THREEPID_NOT_FOUND", Message: "the third-party identifier is not known"}
	ErrThreepidDenied              = &Error{Status: 403, Code: "M_THREEPID_DENIED", Message: "the third-party identifier is not allowed"}
	ErrServerNotTrusted            = &Error{Status: 400, Code: "M_SERVER_NOT_TRUSTED", Message: "the named server is not trusted"}
	ErrUnsupportedRoomVersion      = &Error{Status: 400, Code: "M_UNSUPPORTED_ROOM_VERSION", Message: "the room version is not supported"}
	ErrIncompatibleRoomVersion     = &Error{Status: 400, Code: "M_INCOMPATIBLE_ROOM_VERSION", Message: "the other server does not support the room's version"}
	ErrBadState                    = &Error{Status: 403, Code: "M_BAD_STATE", Message: "the room's state does not allow this"}
	ErrGuestAccessForbidden        = &Error{Status: 403, Code: "M_GUEST_ACCESS_FORBIDDEN", Message: "guests may not do this"}
	ErrCaptchaNeeded               = &Error{Status: 401, Code: "M_CAPTCHA_NEEDED", Message: "a captcha is needed"}
	ErrMissingParam                = &Error{Status: 400, Code: "M_MISSING_PARAM", Message: "a parameter is missing"}
	ErrInvalidParam                = &Error{Status: 400, Code: "M_INVALID_PARAM", Message: "a parameter is not valid"}
	ErrTooLarge                    = &Error{Status: 413, Code: "M_TOO_LARGE", Message: "the body or event is too large"}
	ErrExclusive                   = &Error{Status: 400, Code: "M_EXCLUSIVE", Message: "the name is reserved by an application service"}
	ErrResourceLimitExceeded       = &Error{Status: 403, Code: "M_RESOURCE_LIMIT_EXCEEDED", Message: "a resource limit of the server is reached"}
	ErrCannotLeaveServerNoticeRoom = &Error{Status: 403, Code: "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", Message: "the room cannot be left"}
	ErrUnableToAuthoriseJoin       = &Error{Status: 400, Code: "M_UNABLE_TO_AUTHORISE_JOIN", Message: "this server cannot check the restricted join's conditions"}
	ErrUnableToGrantJoin           = &Error{Status: 400, Code: "M_UNABLE_TO_GRANT_JOIN", Message: "another server must grant the restricted join"}
	ErrDuplicateAnnotation         = &Error{Status: 400, Code: "M_DUPLICATE_ANNOTATION", Message: "the same annotation was sent before"}
	ErrNotYetUploaded              = &Error{Status: 504, Code: "M_NOT_YET_UPLOADED", Message: "the media was not uploaded yet"}
	ErrCannotOverwriteMedia        = &Error{Status: 409, Code: "M_CANNOT_OVERWRITE_MEDIA", Message: "the media was uploaded already"}
	ErrWeakPassword                = &Error{Status: 400, Code: "M_WEAK_PASSWORD", Message: "the password is too weak"}
	ErrInvalidSignature            = &Error{Status: 400, Code: "M_INVALID_SIGNATURE", Message: "a signature is missing or wrong"}
	ErrWrongRoomKeysVersion        = &Error{Status: 403, Code: "M_WRONG_ROOM_KEYS_VERSION", Message: "the backup version is not the current one"}
	ErrUnknownPos                  = &Error{Status: 400, Code: "M_UNKNOWN_POS", Message: "the sync position is not known"}
	ErrUnknownDevice               = &Error{Status: 404, Code: "M_UNKNOWN_DEVICE", Message: "the device is not known"}
	ErrConnectionTimeout           = &Error{Status: 504, Code: "M_CONNECTION_TIMEOUT", Message: "the remote party did not answer in time"}
	ErrConnectionFailed            = &Error{Status: 502, Code: "M_CONNECTION_FAILED", Message: "the remote party could not be reached"}
	ErrInviteBlocked               = &Error{Status: 403, Code: "M_INVITE_BLOCKED", Message: "the invited user does not take this invite"}
)

// Forbidden is M_FORBIDDEN with status 403: the requester may not do this.
func Forbidden(format string, args ...any) *Error {
	return New(403, "M_FORBIDDEN", format, args...)
}

// UnknownToken is M_UNKNOWN_TOKEN with status 401: the access token is not known (any more).
func UnknownToken(format string, args ...any) *Error {
	return New(401, "M_UNKNOWN_TOKEN", format, args...)
}

// MissingToken is M_MISSING_TOKEN with status 401: no access token was given.
func MissingToken(format string, args ...any) *Error {
	return New(401, "M_MISSING_TOKEN", format, args...)
}

// Unauthorized is M_UNAUTHORIZED with status 401: the request was not correctly authorised.
func Unauthorized(format string, args ...any) *Error {
	return New(401, "M_UNAUTHORIZED", format, args...)
}

// UserLocked is M_USER_LOCKED with status 401: the account is locked.
func UserLocked(format string, args ...any) *Error {
	return New(401, "M_USER_LOCKED", format, args...)
}

// UserSuspended is M_USER_SUSPENDED with status 403: the account is suspended.
func UserSuspended(format string, args ...any) *Error {
	return New(403, "M_USER_SUSPENDED", format, args...)
}

// UserDeactivated is M_USER_DEACTIVATED with status 403: the account is deactivated.
func UserDeactivated(format string, args ...any) *Error {
	return New(403, "M_USER_DEACTIVATED", format, args...)
}

// BadJSON is M_BAD_JSON with status 400: the body is JSON but of the wrong shape.
func BadJSON(format string, args ...any) *Error {
	return New(400, "M_BAD_JSON", format, args...)
}

// NotJSON is M_NOT_JSON with status 400: the body is no JSON.
func NotJSON(format string, args ...any) *Error {
	return New(400, "M_NOT_JSON", format, args...)
}

// NotFound is M_NOT_FOUND with status 404: nothing was found there.
func NotFound(format string, args ...any) *Error {
	return New(404, "M_NOT_FOUND", format, args...)
}

// LimitExceeded is M_LIMIT_EXCEEDED with status 429: too many requests.
func LimitExceeded(format string, args ...any) *Error {
	return New(429, "M_LIMIT_EXCEEDED", format, args...)
}

// Unrecognized is M_UNRECOGNIZED with status 404: the endpoint is not known.
func Unrecognized(format string, args ...any) *Error {
	return New(404, "M_UNRECOGNIZED", format, args...)
}

// MethodNotAllowed is M_UNRECOGNIZED with status 405: the endpoint is known, the method is not.
func MethodNotAllowed(format string, args ...any) *Error {
	return New(405, "M_UNRECOGNIZED", format, args...)
}

// Unknown is M_UNKNOWN with status 400: an error that has no code of its own.
func Unknown(format string, args ...any) *Error {
	return New(400, "M_UNKNOWN", format, args...)
}

// UserInUse is M_USER_IN_USE with status 400: the user ID is taken.
func UserInUse(format string, args ...any) *Error {
	return New(400, "M_USER_IN_USE", format, args...)
}

// InvalidUsername is M_INVALID_USERNAME with status 400: the user ID is not valid.
func InvalidUsername(format string, args ...any) *Error {
	return New(400, "M_INVALID_USERNAME", format, args...)
}

// RoomInUse is M_ROOM_IN_USE with status 400: the alias is taken.
func RoomInUse(format string, args ...any) *Error {
	return New(400, "M_ROOM_IN_USE", format, args...)
}

// InvalidRoomState is M_INVALID_ROOM_STATE with status 400: the initial state is not valid.
func InvalidRoomState(format string, args ...any) *Error {
	return New(400, "M_INVALID_ROOM_STATE", format, args...)
}

// ThreepidInUse is M_THREEPID_IN_USE with status 400: the third-party identifier is taken.
func ThreepidInUse(format string, args ...any) *Error {
	return New(400, "M_THREEPID_IN_USE", format, args...)
}

// ThreepidNotFound is M_THREEPID_NOT_FOUND with status 400: the third-party identifier is not known.
func ThreepidNotFound(format string, args ...any) *Error {
	return New(400, "M_THREEPID_NOT_FOUND", format, args...)
}

// ThreepidDenied is M_THREEPID_DENIED with status 403: the third-party identifier is not allowed.
func ThreepidDenied(format string, args ...any) *Error {
	return New(403, "M_THREEPID_DENIED", format, args...)
}

// ServerNotTrusted is M_SERVER_NOT_TRUSTED with status 400: the named server is not trusted.
func ServerNotTrusted(format string, args ...any) *Error {
	return New(400, "M_SERVER_NOT_TRUSTED", format, args...)
}

// UnsupportedRoomVersion is M_UNSUPPORTED_ROOM_VERSION with status 400: the room version is not supported.
func UnsupportedRoomVersion(format string, args ...any) *Error {
	return New(400, "M_UNSUPPORTED_ROOM_VERSION", format, args...)
}

// IncompatibleRoomVersion is M_INCOMPATIBLE_ROOM_VERSION with status 400: the other server does not support the room's version.
func IncompatibleRoomVersion(format string, args ...any) *Error {
	return New(400, "M_INCOMPATIBLE_ROOM_VERSION", format, args...)
}

// BadState is M_BAD_STATE with status 403: the room's state does not allow this.
func BadState(format string, args ...any) *Error {
	return New(403, "M_BAD_STATE", format, args...)
}

// GuestAccessForbidden is M_GUEST_ACCESS_FORBIDDEN with status 403: guests may not do this.
func GuestAccessForbidden(format string, args ...any) *Error {
	return New(403, "M_GUEST_ACCESS_FORBIDDEN", format, args...)
}

// CaptchaNeeded is M_CAPTCHA_NEEDED with status 401: a captcha is needed.
func CaptchaNeeded(format string, args ...any) *Error {
	return New(401, "M_CAPTCHA_NEEDED", format, args...)
}

// MissingParam is M_MISSING_PARAM with status 400: a parameter is missing.
func MissingParam(format string, args ...any) *Error {
	return New(400, "M_MISSING_PARAM", format, args...)
}

// InvalidParam is M_INVALID_PARAM with status 400: a parameter is not valid.
func InvalidParam(format string, args ...any) *Error {
	return New(400, "M_INVALID_PARAM", format, args...)
}

// TooLarge is M_TOO_LARGE with status 413: the body or event is too large.
func TooLarge(format string, args ...any) *Error {
	return New(413, "M_TOO_LARGE", format, args...)
}

// Exclusive is M_EXCLUSIVE with status 400: the name is reserved by an application service.
func Exclusive(format string, args ...any) *Error {
	return New(400, "M_EXCLUSIVE", format, args...)
}

// ResourceLimitExceeded is M_RESOURCE_LIMIT_EXCEEDED with status 403: a resource limit of the server is reached.
func ResourceLimitExceeded(format string, args ...any) *Error {
	return New(403, "M_RESOURCE_LIMIT_EXCEEDED", format, args...)
}

// CannotLeaveServerNoticeRoom is M_CANNOT_LEAVE_SERVER_NOTICE_ROOM with status 403: the room cannot be left.
func CannotLeaveServerNoticeRoom(format string, args ...any) *Error {
	return New(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", format, args...)
}

// UnableToAuthoriseJoin is M_UNABLE_TO_AUTHORISE_JOIN with status 400: this server cannot check the restricted join's conditions.
func UnableToAuthoriseJoin(format string, args ...any) *Error {
	return New(400, "M_UNABLE_TO_AUTHORISE_JOIN", format, args...)
}

// UnableToGrantJoin is M_UNABLE_TO_GRANT_JOIN with status 400: another server must grant the restricted join.
func UnableToGrantJoin(format string, args ...any) *Error {
	return New(400, "M_UNABLE_TO_GRANT_JOIN", format, args...)
}

// DuplicateAnnotation is M_DUPLICATE_ANNOTATION with status 400: the same annotation was sent before.
func DuplicateAnnotation(format string, args ...any) *Error {
	return New(400, "M_DUPLICATE_ANNOTATION", format, args...)
}

// NotYetUploaded is M_NOT_YET_UPLOADED with status 504: the media was not uploaded yet.
func NotYetUploaded(format string, args ...any) *Error {
	return New(504, "M_NOT_YET_UPLOADED", format, args...)
}

// CannotOverwriteMedia is M_CANNOT_OVERWRITE_MEDIA with status 409: the media was uploaded already.
func CannotOverwriteMedia(format string, args ...any) *Error {
	return New(409, "M_CANNOT_OVERWRITE_MEDIA", format, args...)
}

// WeakPassword is M_WEAK_PASSWORD with status 400: the password is too weak.
func WeakPassword(format string, args ...any) *Error {
	return New(400, "M_WEAK_PASSWORD", format, args...)
}

// InvalidSignature is M_INVALID_SIGNATURE with status 400: a signature is missing or wrong.
func InvalidSignature(format string, args ...any) *Error {
	return New(400, "M_INVALID_SIGNATURE", format, args...)
}

// WrongRoomKeysVersion is M_WRONG_ROOM_KEYS_VERSION with status 403: the backup version is not the current one.
func WrongRoomKeysVersion(format string, args ...any) *Error {
	return New(403, "M_WRONG_ROOM_KEYS_VERSION", format, args...)
}

// UnknownPos is M_UNKNOWN_POS with status 400: the sync position is not known.
func UnknownPos(format string, args ...any) *Error {
	return New(400, "M_UNKNOWN_POS", format, args...)
}

// UnknownDevice is M_UNKNOWN_DEVICE with status 404: the device is not known.
func UnknownDevice(format string, args ...any) *Error {
	return New(404, "M_UNKNOWN_DEVICE", format, args...)
}

// ConnectionTimeout is M_CONNECTION_TIMEOUT with status 504: the remote party did not answer in time.
func ConnectionTimeout(format string, args ...any) *Error {
	return New(504, "M_CONNECTION_TIMEOUT", format, args...)
}

// ConnectionFailed is M_CONNECTION_FAILED with status 502: the remote party could not be reached.
func ConnectionFailed(format string, args ...any) *Error {
	return New(502, "M_CONNECTION_FAILED", format, args...)
}

// InviteBlocked is M_INVITE_BLOCKED with status 403: the invited user does not take this invite.
func InviteBlocked(format string, args ...any) *Error {
	return New(403, "M_INVITE_BLOCKED", format, args...)
}
